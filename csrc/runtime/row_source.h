#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/row_memory.h"

namespace searchpipe::runtime {

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

}  // namespace searchpipe::runtime
