#pragma once

#include <cstddef>
#include <cstdint>

namespace searchpipe::runtime {

// The rows of one request, written on demand straight into a batch's memory.
// Immutable: length() and write() may be called from any thread.
class RowSource {
 public:
  virtual ~RowSource() = default;

  virtual std::size_t size() const = 0;
  // Tokens of a row, special tokens included.
  virtual std::int32_t length(std::size_t row) const = 0;
  // Fills `width` places (at least length(row)) of each array, padding included; `types` may be null.
  virtual void write(std::size_t row, std::int32_t width, std::int32_t* ids, std::int32_t* mask,
                     std::int32_t* types) const = 0;
};

// A row that stands for nothing, to fill a bucket up: one visible token, so
// that no softmax runs over an empty set.
void write_filler_row(std::int32_t width, std::int32_t* ids, std::int32_t* mask, std::int32_t* types);

}  // namespace searchpipe::runtime
