#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "runtime/shape.h"

namespace searchpipe::runtime {

// Where a batch of one slot is written and its output read, on the host; the shapes are EngineShape's and
// InputBlock's.
struct SlotView {
  std::int32_t* ids = nullptr;
  std::int32_t* mask = nullptr;    // padded only
  std::int32_t* types = nullptr;   // padded only; null if the engine takes none
  std::int32_t* ends = nullptr;    // packed only
  std::int32_t* splits = nullptr;  // packed only; null if the engine takes no token types
  float* output = nullptr;         // [rows, output_width]
};

// The arrays of a bucket in a block of InputBlock::sent_bytes.
SlotView slot_view(const EngineShape& shape, const Bucket& bucket, void* input, void* output);

// Where the next rows of a batch are written.
struct RowMemory {
  RowLayout layout = RowLayout::kPadded;
  std::int32_t width = 0;  // padded: places of every row
  std::int32_t* ids = nullptr;
  // As in SlotView.
  std::int32_t* mask = nullptr;
  std::int32_t* types = nullptr;
  std::int32_t* splits = nullptr;

  RowMemory() = default;
  RowMemory(const EngineShape& shape, const Bucket& bucket, const SlotView& view);

  // Places that a row of `length` tokens takes.
  std::int32_t places(std::int32_t length) const { return layout == RowLayout::kPadded ? width : length; }
  // What lies behind so many rows, of so many tokens together.
  RowMemory after(std::size_t rows, std::size_t tokens) const;
};

// Writes what a batch needs besides its rows, which have these lengths and were written in this order: rows
// that fill a padded bucket up (one visible token each, so that no softmax runs over an empty set), or where
// packed rows end, with id 0 for the tokens behind them.
void complete_rows(std::span<const std::int32_t> lengths, const EngineShape& shape, const Bucket& bucket,
                   const SlotView& view);

}  // namespace searchpipe::runtime
