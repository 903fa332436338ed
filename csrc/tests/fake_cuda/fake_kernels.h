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

inline Kernel find_kernel(const std::string& name) { return name == "row_scores" ? row_scores : nullptr; }
inline constexpr int kKernelArguments = 7;

}  // namespace fake_cuda
