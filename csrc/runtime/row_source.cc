#include "runtime/row_source.h"

#include <algorithm>

namespace searchpipe::runtime {

RowMemory RowMemory::from(std::size_t row) const {
  const std::size_t skipped = row * static_cast<std::size_t>(width);
  return {width, ids + skipped, mask + skipped, types == nullptr ? nullptr : types + skipped};
}

void write_filler_rows(std::size_t count, const RowMemory& memory) {
  const std::size_t places = count * static_cast<std::size_t>(memory.width);
  std::fill_n(memory.ids, places, 0);
  std::fill_n(memory.mask, places, 0);
  if (memory.types != nullptr) std::fill_n(memory.types, places, 0);
  for (std::size_t row = 0; row < count; ++row) memory.mask[row * static_cast<std::size_t>(memory.width)] = 1;
}

}  // namespace searchpipe::runtime
