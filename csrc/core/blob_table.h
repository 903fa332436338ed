#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace searchpipe {

// Byte strings by number in memory that others own, mostly a mapped file. Immutable: any thread.
class BlobTable {
 public:
  // String i is bytes[ends[i], ends[i + 1]); `ends` holds at least one number.
  // Throws std::invalid_argument unless the first is 0 and the last the number of bytes.
  BlobTable(std::span<const std::uint8_t> bytes, std::span<const std::int64_t> ends);

  std::int64_t size() const { return static_cast<std::int64_t>(ends_.size()) - 1; }

  // Throws std::out_of_range for a number that does not exist, std::runtime_error where `ends` are damaged.
  std::span<const std::uint8_t> at(std::int64_t number) const;

 private:
  std::span<const std::uint8_t> bytes_;
  std::span<const std::int64_t> ends_;
};

}  // namespace searchpipe
