#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/file.h"
#include "core/postings_part.h"

namespace searchpipe {

// Lengths, in terms, of every field of every document.
struct DocumentLengths {
  std::size_t fields = 0;
  std::vector<std::uint32_t> lengths;  // document after document, each field by field
  std::vector<std::uint64_t> totals;   // by field

  std::size_t documents() const { return fields == 0 ? 0 : lengths.size() / fields; }
};

// Merges spilled parts, which are in the order of their documents, into a postings index that is published at
// `path`. Besides the lengths it holds at most about `memory_bytes`, or 16 KiB a part. Throws IoError, or
// std::length_error for more distinct terms than the format has room for.
void merge_postings(const std::string& path, TemporaryFile& spilled, std::span<const SpilledPart> parts,
                    const DocumentLengths& documents, std::size_t memory_bytes);

}  // namespace searchpipe
