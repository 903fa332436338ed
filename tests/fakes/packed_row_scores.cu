// The model of the runtime's tests on packed rows: the scores of row_scores.cu.
// A row that the bookkeeping puts in a wrong place gets another score.
//
// packed_row_scores.ptx: NVRTC, --gpu-architecture=compute_75, every parameter
// 64 bits wide. csrc/tests/fake_cuda/fake_kernels.h is its twin.
extern "C" __global__ void packed_row_scores(const int* ids, const int* positions, const int* ends,
                                             const int* firsts, const int* token_offset, const int* types,
                                             float* out, long long rows, long long longest_row,
                                             long long width) {
  const long long row = blockIdx.x * static_cast<long long>(blockDim.x) + threadIdx.x;
  if (row >= rows) return;
  long long sum = 0;
  if (ends[row] < ends[row + 1] && firsts[row] != ends[row]) sum = 1000003;
#pragma unroll 1
  for (long long at = ends[row]; at < ends[row + 1]; ++at) {
    const long long type = types == nullptr ? 0 : types[at];
    sum += (ids[at] * 31LL + positions[at] * 17LL + type * 7) % 997;
    if (token_offset[at] != row * longest_row + at - ends[row]) sum += 1009;
  }
#pragma unroll 1
  for (long long j = 0; j < width; ++j) out[row * width + j] = static_cast<float>(sum + j);
}
