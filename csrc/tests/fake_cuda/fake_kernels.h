#pragma once

// Host twins of the kernels in tests/fakes/row_scores.cu: found by name, so
// that the same PTX text "runs" on the fake.

#include <cstdint>
#include <string>

namespace fake_cuda {

using Arguments = const uint64_t*;
using Kernel = void (*)(Arguments);

// (ids, mask, types, out, rows, tokens, width): each row's score is a sum of whole numbers, exact in float32.
inline void row_scores(Arguments a) {
  const auto* ids = reinterpret_cast<const int32_t*>(a[0]);
  const auto* mask = reinterpret_cast<const int32_t*>(a[1]);
  const auto* types = reinterpret_cast<const int32_t*>(a[2]);
  auto* out = reinterpret_cast<float*>(a[3]);
  const auto rows = static_cast<int64_t>(a[4]);
  const auto tokens = static_cast<int64_t>(a[5]);
  const auto width = static_cast<int64_t>(a[6]);
  for (int64_t row = 0; row < rows; ++row) {
    int64_t sum = 0;
    for (int64_t t = 0; t < tokens; ++t) {
      const int64_t at = row * tokens + t;
      const int64_t type = types == nullptr ? 0 : types[at];
      if (mask[at] != 0) sum += (int64_t{ids[at]} * 31 + t * 17 + type * 7) % 997;
    }
    for (int64_t j = 0; j < width; ++j) out[row * width + j] = static_cast<float>(sum + j);
  }
}

// (ids, positions, ends, firsts, token_offset, types, out, rows, longest_row, width): the same scores of
// packed rows; a row that the bookkeeping puts in a wrong place gets another score.
inline void packed_row_scores(Arguments a) {
  const auto* ids = reinterpret_cast<const int32_t*>(a[0]);
  const auto* positions = reinterpret_cast<const int32_t*>(a[1]);
  const auto* ends = reinterpret_cast<const int32_t*>(a[2]);
  const auto* firsts = reinterpret_cast<const int32_t*>(a[3]);
  const auto* offsets = reinterpret_cast<const int32_t*>(a[4]);
  const auto* types = reinterpret_cast<const int32_t*>(a[5]);
  auto* out = reinterpret_cast<float*>(a[6]);
  const auto rows = static_cast<int64_t>(a[7]);
  const auto longest = static_cast<int64_t>(a[8]);
  const auto width = static_cast<int64_t>(a[9]);
  for (int64_t row = 0; row < rows; ++row) {
    int64_t sum = 0;
    if (ends[row] < ends[row + 1] && firsts[row] != ends[row]) sum = 1000003;
    for (int64_t at = ends[row]; at < ends[row + 1]; ++at) {
      const int64_t type = types == nullptr ? 0 : types[at];
      sum += (int64_t{ids[at]} * 31 + int64_t{positions[at]} * 17 + type * 7) % 997;
      if (offsets[at] != row * longest + at - ends[row]) sum += 1009;
    }
    for (int64_t j = 0; j < width; ++j) out[row * width + j] = static_cast<float>(sum + j);
  }
}

inline Kernel find_kernel(const std::string& name) {
  if (name == "row_scores") return row_scores;
  return name == "packed_row_scores" ? packed_row_scores : nullptr;
}

inline int kernel_arguments(Kernel kernel) { return kernel == packed_row_scores ? 10 : 7; }

}  // namespace fake_cuda
