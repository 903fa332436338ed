#include "runtime/packed_places.h"

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <utility>

#include "runtime/packed_places_ptx.h"

namespace searchpipe::runtime {
namespace {
constexpr unsigned kThreads = 128;  // a row's, whatever its length
}

PackedPlaces::PackedPlaces(std::shared_ptr<cuda::Device> device)
    : kernel_(std::move(device), kPackedPlacesPtx, "packed_places") {}

void PackedPlaces::enqueue(const EngineShape& shape, const Bucket& bucket, cuda::DevicePtr block,
                           cuda::StreamHandle stream) const {
  const InputBlock inputs = shape.input_block(bucket);
  const auto at = [&](const InputArray& array) { return array.elements == 0 ? 0 : block + array.offset; };
  const auto& [ids, positions, ends, firsts, token_offset, types] = inputs.arrays;
  kernel_.launch(stream, static_cast<unsigned>(bucket.rows), kThreads,
                 {at(ends), at(inputs.splits), at(positions), at(firsts), at(token_offset), at(types),
                  static_cast<std::uint64_t>(bucket.rows), static_cast<std::uint64_t>(shape.longest_row),
                  static_cast<std::uint64_t>(bucket.tokens)});
}

HostPlaces packed_places(std::span<const std::int32_t> lengths, std::int32_t longest_row,
                         const Bucket& bucket) {
  const auto rows = static_cast<std::size_t>(bucket.rows);
  HostPlaces at;
  at.positions.assign(static_cast<std::size_t>(bucket.tokens), 0);
  at.ends.assign(rows + 1, 0);
  at.firsts.assign(rows, 0);
  at.token_offset.resize(rows * static_cast<std::size_t>(longest_row));
  std::int32_t end = 0;
  auto offset = at.token_offset.begin();
  for (std::size_t row = 0; row < lengths.size(); ++row) {
    const auto begin = at.positions.begin() + end;
    std::iota(begin, begin + lengths[row], 0);
    std::iota(offset, offset + lengths[row], static_cast<std::int32_t>(row) * longest_row);
    at.firsts[row] = end;
    offset += lengths[row];
    end += lengths[row];
    at.ends[row + 1] = end;
  }
  std::fill(at.ends.begin() + static_cast<std::ptrdiff_t>(lengths.size()) + 1, at.ends.end(), end);
  for (std::int32_t row = 0; row < bucket.rows; ++row) {
    const auto index = static_cast<std::size_t>(row);
    const std::int32_t length = index < lengths.size() ? lengths[index] : 0;
    std::iota(offset, offset + longest_row - length, row * longest_row + length);
    offset += longest_row - length;
  }
  return at;
}

}  // namespace searchpipe::runtime
