#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/file.h"

namespace searchpipe {

// What stands before the postings of one list in a spilled part; then come the bytes of the term, the places
// (uint16) and the frequencies (uint32).
struct PartRecord {
  std::uint32_t term_bytes;
  std::uint32_t field;
  std::uint32_t postings;
};

// Where a spilled part lies in the temporary file; its records are ordered by term, then by field.
struct SpilledPart {
  std::uint32_t block;
  std::uint64_t begin;
  std::uint64_t end;
};

// Postings of consecutive documents of one block, in memory, until they are spilled. For one thread.
class PostingsPart {
 public:
  explicit PostingsPart(std::size_t fields) : lists_(fields) {}

  // Adds the terms of one field of the document at `place`, in any order and with repetitions.
  void add(std::uint16_t place, std::size_t field, std::span<const std::string_view> terms);

  // About what it occupies, with what spilling it will take.
  std::size_t memory_bytes() const;
  bool empty() const { return postings_.empty(); }

  // Appends the records to `file` and forgets them. Throws IoError.
  SpilledPart spill(std::uint32_t block, TemporaryFile& file);

 private:
  struct Posting {
    std::uint32_t list;
    std::uint32_t frequency;
    std::uint16_t place;
  };
  struct ListKey {
    std::string_view term;
    std::uint32_t field;
    std::uint32_t postings;
  };

  std::uint32_t list_of(std::size_t field, std::string_view term);
  std::string_view keep(std::string_view text);

  std::vector<std::unordered_map<std::string_view, std::uint32_t>> lists_;  // by field
  std::vector<ListKey> keys_;                                               // by list
  std::vector<Posting> postings_;
  std::deque<std::vector<char>> text_;  // the bytes that keys refer to, which never move
  std::size_t text_bytes_ = 0;
  std::vector<std::uint32_t> found_;  // lists of the terms of the field at hand
};

}  // namespace searchpipe
