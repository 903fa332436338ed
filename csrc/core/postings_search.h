#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "core/postings_index.h"

namespace searchpipe {

struct ScoredDocs {
  std::vector<std::int32_t> docs;
  std::vector<float> scores;
};

// The `k` best documents by BM25 summed over all terms and fields, best first, equal scores by ordinal. A
// list counts its field's boost times idf = ln(1 + (N - df + 0.5) / (df + 0.5)) times the impact; a boost
// that is not above 0 leaves its field out. `mask` is empty or has a byte for every document, 0 for those
// that must not be found.
//
// Exact: whatever is skipped cannot be among the best, and every document's parts are added in the order of
// the lists' largest parts, so that its score does not depend on k, the mask or the block that it is in. Any
// number of threads; each keeps 320 KiB for its searches. Throws std::invalid_argument for a wrong number of
// boosts or mask entries or a boost that is not below 1e6, std::runtime_error for a damaged index.
ScoredDocs search_postings(const PostingsIndex& index, std::span<const std::string_view> terms,
                           std::span<const double> boosts, std::int64_t k,
                           std::span<const std::uint8_t> mask);

}  // namespace searchpipe
