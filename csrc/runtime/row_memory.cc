#include "runtime/row_memory.h"

#include <algorithm>
#include <numeric>

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

void write_whereabouts(std::span<const std::int32_t> lengths, std::int32_t longest_row, const Bucket& bucket,
                       const SlotView& view) {
  std::int32_t end = 0;
  std::int32_t* offset = view.token_offset;
  view.ends[0] = 0;
  for (std::size_t row = 0; row < lengths.size(); ++row) {
    view.firsts[row] = end;
    std::iota(view.positions + end, view.positions + end + lengths[row], 0);
    std::iota(offset, offset + lengths[row], static_cast<std::int32_t>(row) * longest_row);
    offset += lengths[row];
    end += lengths[row];
    view.ends[row + 1] = end;
  }
  const std::int32_t tokens_left = bucket.tokens - end;
  std::fill_n(view.ids + end, tokens_left, 0);
  std::fill_n(view.positions + end, tokens_left, 0);
  if (view.types != nullptr) std::fill_n(view.types + end, tokens_left, 0);
  const std::size_t rows_left = static_cast<std::size_t>(bucket.rows) - lengths.size();
  std::fill_n(view.ends + lengths.size() + 1, rows_left, end);
  std::fill_n(view.firsts + lengths.size(), rows_left, 0);
  for (std::int32_t row = 0; row < bucket.rows; ++row) {
    const auto index = static_cast<std::size_t>(row);
    const std::int32_t length = index < lengths.size() ? lengths[index] : 0;
    std::iota(offset, offset + longest_row - length, row * longest_row + length);
    offset += longest_row - length;
  }
}

}  // namespace

SlotView slot_view(const EngineShape& shape, const Bucket& bucket, void* input, void* output) {
  std::vector<std::int32_t*> at;
  for (const InputArray& array : shape.input_arrays(bucket)) {
    at.push_back(reinterpret_cast<std::int32_t*>(static_cast<char*>(input) + array.offset));
  }
  SlotView view;
  view.ids = at[0];
  view.output = static_cast<float*>(output);
  if (shape.packed()) {
    view.positions = at[1];
    view.ends = at[2];
    view.firsts = at[3];
    view.token_offset = at[4];
    if (at.size() > 5) view.types = at[5];
  } else {
    view.mask = at[1];
    if (at.size() > 2) view.types = at[2];
  }
  return view;
}

RowMemory::RowMemory(const EngineShape& shape, const Bucket& bucket, const SlotView& view)
    : layout(shape.layout),
      width(shape.packed() ? 0 : bucket.tokens),
      ids(view.ids),
      mask(view.mask),
      types(view.types) {}

RowMemory RowMemory::after(std::size_t rows, std::size_t tokens) const {
  const std::size_t skipped = layout == RowLayout::kPadded ? rows * static_cast<std::size_t>(width) : tokens;
  RowMemory rest = *this;
  rest.ids += skipped;
  if (mask != nullptr) rest.mask += skipped;
  if (types != nullptr) rest.types += skipped;
  return rest;
}

void complete_rows(std::span<const std::int32_t> lengths, const EngineShape& shape, const Bucket& bucket,
                   const SlotView& view) {
  if (shape.packed()) {
    write_whereabouts(lengths, shape.longest_row, bucket, view);
  } else {
    fill_up(lengths.size(), bucket, view);
  }
}

}  // namespace searchpipe::runtime
