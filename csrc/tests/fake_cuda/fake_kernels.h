#pragma once

// Host twins of the kernels of csrc/runtime/*.cu and tests/fakes/*.cu: found by
// name, so that the same PTX text "runs" on the fake.

#include <cstdint>
#include <string>

namespace fake_cuda {

using Arguments = const uint64_t*;
using Kernel = void (*)(Arguments);

// What a kernel's source knows of its launch; set by the launch.
struct Index {
  unsigned x = 1;
};
inline thread_local Index gridDim;
inline thread_local Index blockDim;
inline thread_local Index blockIdx;
inline thread_local Index threadIdx;

#define __global__ __attribute__((visibility("hidden")))
namespace source {
#include "runtime/copy_bytes.cu"
#include "runtime/fill_bytes.cu"
#include "runtime/packed_places.cu"
}  // namespace source
#undef __global__

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

// Kernels of csrc/runtime are their source itself, thread after thread.
template <class Thread>
void run_source(const Thread& thread) {
  for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x) {
    for (threadIdx.x = 0; threadIdx.x < blockDim.x; ++threadIdx.x) thread();
  }
}

// (ends, splits, positions, firsts, token_offset, types, rows, longest_row, tokens)
inline void packed_places(Arguments a) {
  const auto at = [a](int argument) { return reinterpret_cast<int*>(a[argument]); };
  const auto count = [a](int argument) { return static_cast<long long>(a[argument]); };
  run_source(
      [=] { source::packed_places(at(0), at(1), at(2), at(3), at(4), at(5), count(6), count(7), count(8)); });
}

// (begin, row_bytes, pitch, rows, pattern, blocks_a_row)
inline void fill_bytes(Arguments a) {
  const auto count = [a](int argument) { return static_cast<long long>(a[argument]); };
  run_source([=] {
    source::fill_bytes(reinterpret_cast<unsigned char*>(a[0]), count(1), count(2), count(3), count(4),
                       count(5));
  });
}

// (to, from, bytes)
inline void copy_bytes(Arguments a) {
  run_source([=] {
    source::copy_bytes(reinterpret_cast<unsigned char*>(a[0]), reinterpret_cast<const unsigned char*>(a[1]),
                       static_cast<long long>(a[2]));
  });
}

struct Known {
  const char* name;
  Kernel kernel;
  int arguments;
};
inline constexpr Known kKernels[] = {
    {"row_scores", row_scores, 7},       {"packed_row_scores", packed_row_scores, 10},
    {"packed_places", packed_places, 9}, {"fill_bytes", fill_bytes, 6},
    {"copy_bytes", copy_bytes, 3},
};

inline Kernel find_kernel(const std::string& name) {
  for (const Known& it : kKernels) {
    if (name == it.name) return it.kernel;
  }
  return nullptr;
}

inline int kernel_arguments(Kernel kernel) {
  for (const Known& it : kKernels) {
    if (kernel == it.kernel) return it.arguments;
  }
  return 0;
}

}  // namespace fake_cuda
