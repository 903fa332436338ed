#include "runtime/row_memory.h"

#include <algorithm>

namespace searchpipe::runtime {
namespace {

void fill_up(std::size_t rows, const Bucket& bucket, const SlotView& view) {
  const auto width = static_cast<std::size_t>(bucket.tokens);
  const std::size_t begin = rows * width;
  const std::size_t places = static_cast<std::size_t>(bucket.rows) * width - begin;
  std::fill_n(view.ids + begin, places, 0);
  std::fill_n(view.mask + begin, places, 0);
  if (view.types != nullptr) std::fill_n(view.types + begin, places, 0);
  for (std::size_t place = begin; place < begin + places; place += width) view.mask[place] = 1;
}

void write_ends(std::span<const std::int32_t> lengths, const Bucket& bucket, const SlotView& view) {
  std::int32_t end = 0;
  std::int32_t* out = view.ends;
  *out++ = 0;
  for (const std::int32_t length : lengths) *out++ = end += length;
  const std::size_t rows_left = static_cast<std::size_t>(bucket.rows) - lengths.size();
  std::fill_n(out, rows_left, end);
  if (view.splits != nullptr) std::fill_n(view.splits + lengths.size(), rows_left, 0);
  std::fill_n(view.ids + end, bucket.tokens - end, 0);
}

}  // namespace

SlotView slot_view(const EngineShape& shape, const Bucket& bucket, void* input, void* output) {
  const InputBlock block = shape.input_block(bucket);
  const auto at = [&](const InputArray& array) -> std::int32_t* {
    if (array.elements == 0) return nullptr;
    return reinterpret_cast<std::int32_t*>(static_cast<char*>(input) + array.offset);
  };
  SlotView view;
  view.ids = at(block.arrays[0]);
  view.output = static_cast<float*>(output);
  if (shape.packed()) {
    view.ends = at(block.arrays[2]);
    view.splits = at(block.splits);
  } else {
    view.mask = at(block.arrays[1]);
    view.types = at(block.arrays[2]);
  }
  return view;
}

RowMemory::RowMemory(const EngineShape& shape, const Bucket& bucket, const SlotView& view)
    : layout(shape.layout),
      width(shape.packed() ? 0 : bucket.tokens),
      ids(view.ids),
      mask(view.mask),
      types(view.types),
      splits(view.splits) {}

RowMemory RowMemory::after(std::size_t rows, std::size_t tokens) const {
  const std::size_t skipped = layout == RowLayout::kPadded ? rows * static_cast<std::size_t>(width) : tokens;
  RowMemory rest = *this;
  rest.ids += skipped;
  if (mask != nullptr) rest.mask += skipped;
  if (types != nullptr) rest.types += skipped;
  if (splits != nullptr) rest.splits += rows;
  return rest;
}

void complete_rows(std::span<const std::int32_t> lengths, const EngineShape& shape, const Bucket& bucket,
                   const SlotView& view) {
  if (shape.packed()) {
    write_ends(lengths, bucket, view);
  } else {
    fill_up(lengths.size(), bucket, view);
  }
}

}  // namespace searchpipe::runtime
