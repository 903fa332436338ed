#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace searchpipe {

// Numbers documents in the order of their first appearance: a hash table with linear probing, at most half
// full. One thread at a time may change it.
class DocumentNumbers {
 public:
  static constexpr std::size_t kNone = std::numeric_limits<std::size_t>::max();

  // For at most `most` different documents.
  explicit DocumentNumbers(std::size_t most)
      : slots_(std::bit_ceil(std::max<std::size_t>(2 * most, 2)), kNone) {
    docs_.reserve(most);
  }

  // The document's number, a new one if it is new.
  std::size_t number(std::int32_t doc) {
    const std::size_t slot = slot_of(doc);
    if (slots_[slot] == kNone) {
      slots_[slot] = docs_.size();
      docs_.push_back(doc);
    }
    return slots_[slot];
  }

  // The document's number, kNone if it has none.
  std::size_t find(std::int32_t doc) const { return slots_[slot_of(doc)]; }

  const std::vector<std::int32_t>& docs() const { return docs_; }

 private:
  std::size_t slot_of(std::int32_t doc) const {
    const std::size_t mask = slots_.size() - 1;
    // Fibonacci hashing: the high bits of the product are well mixed.
    std::size_t slot = (static_cast<std::uint64_t>(doc) * 0x9E3779B97F4A7C15 >> 32) & mask;
    while (slots_[slot] != kNone && docs_[slots_[slot]] != doc) slot = (slot + 1) & mask;
    return slot;
  }

  std::vector<std::size_t> slots_;
  std::vector<std::int32_t> docs_;
};

}  // namespace searchpipe
