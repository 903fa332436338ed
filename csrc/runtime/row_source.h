#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace searchpipe::runtime {

// Rows of one batch in memory: `width` places each, without gaps between them.
struct RowMemory {
  std::int32_t width = 0;
  std::int32_t* ids = nullptr;
  std::int32_t* mask = nullptr;
  std::int32_t* types = nullptr;  // null if the engine takes no token types

  RowMemory from(std::size_t row) const;
};

// The rows of one request, written on demand straight into a batch's memory.
// Immutable: any thread may call everything.
class RowSource {
 public:
  virtual ~RowSource() = default;

  // Tokens of each row, special tokens included.
  const std::vector<std::int32_t>& lengths() const { return lengths_; }
  // Writes the rows named, padding included, in an order of its own; returns, for each row written, its place
  // in `rows`.
  virtual std::vector<std::int32_t> write(std::span<const std::int32_t> rows,
                                          const RowMemory& memory) const = 0;

 protected:
  std::vector<std::int32_t> lengths_;
};

// Writes `count` rows that stand for nothing, to fill a bucket up: one visible token each, so that no softmax
// runs over an empty set.
void write_filler_rows(std::size_t count, const RowMemory& memory);

}  // namespace searchpipe::runtime
