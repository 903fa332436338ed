#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <span>
#include <string_view>
#include <vector>

#include "core/postings_index.h"
#include "core/range_search.h"
#include "core/top_docs.h"

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
// the lists' largest parts, so that its score does not depend on k, the mask, the block that it is in or who
// searched that.
//
// Any number of threads may work on one search at once; each takes the next range of documents that nobody
// has begun, and keeps 320 KiB for its searches.
class PostingsSearch {
 public:
  using Clock = std::chrono::steady_clock;

  // Finds nothing out yet. The index, the terms and the mask must outlive it. Throws std::invalid_argument
  // for a wrong number of boosts or mask entries or a boost that is not below 1e6.
  PostingsSearch(const PostingsIndex& index, std::vector<std::string_view> terms, std::vector<double> boosts,
                 std::int64_t k, std::span<const std::uint8_t> mask);
  PostingsSearch(const PostingsSearch&) = delete;
  PostingsSearch& operator=(const PostingsSearch&) = delete;

  // Works on it until there is no range left that nobody has begun, or, between two ranges, until `until`.
  void run(Clock::time_point until = Clock::time_point::max());

  // Whether it has ended: nothing is left, and nobody works on it any more. After `until` at the latest.
  bool wait(Clock::time_point until) const;
  bool ended() const { return ended_.load(std::memory_order_acquire); }

  // Ends it with what has been found by then: returns once no thread works on it any more, at most a range
  // later, and none that comes later reads the index, the terms or the mask.
  void abandon();

  // What was found, once it has ended (else std::logic_error). Throws std::runtime_error for a damaged index.
  ScoredDocs found();
  // From when it was first worked on until it ended; 0 before.
  double seconds() const;

 private:
  struct Range {
    std::uint32_t begin = 0;
    std::uint32_t width = 0;
    float threshold = 0.0f;  // a document of it that has not more cannot be among the best
  };

  void prepare();
  void work(Clock::time_point until);
  bool claim(Range& range, Clock::time_point until);
  void offer(const Range& range, const RangeSearch& ranges);
  void fail(std::exception_ptr error);

  const PostingsIndex& index_;
  std::vector<std::string_view> terms_;
  std::vector<double> boosts_;
  std::span<const std::uint8_t> mask_;

  std::once_flag prepared_;
  std::vector<QueryList> lists_;  // written once

  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  TopDocs top_;
  std::uint32_t documents_;        // to search
  std::uint32_t next_ = 0;         // the first one that nobody has begun
  std::uint32_t width_;            // of the range that begins there
  std::uint32_t offered_end_ = 0;  // behind the last range of which something was offered
  int working_ = 0;
  std::exception_ptr error_;
  Clock::time_point first_{};
  Clock::time_point last_{};
  std::atomic<bool> ended_{false};
};

// By the calling thread alone.
ScoredDocs search_postings(const PostingsIndex& index, std::span<const std::string_view> terms,
                           std::span<const double> boosts, std::int64_t k,
                           std::span<const std::uint8_t> mask);

}  // namespace searchpipe
