// The model of the runtime's tests: a row's score is the sum over its visible
// tokens t of (31 id + 17 t + 7 type) mod 997, plus j in column j of the
// output: whole numbers below 2^24, exact in float32 whatever adds them up.
//
// row_scores.ptx: nvcc -ptx -arch=compute_75 row_scores.cu, with every
// parameter 64 bits wide. csrc/tests/fake_cuda/fake_kernels.h is its twin.
extern "C" __global__ void row_scores(const int* ids, const int* mask, const int* types, float* out, long long rows,
                                      long long tokens, long long width) {
  const long long row = blockIdx.x * static_cast<long long>(blockDim.x) + threadIdx.x;
  if (row >= rows) return;
  long long sum = 0;
#pragma unroll 1
  for (long long t = 0; t < tokens; ++t) {
    const long long at = row * tokens + t;
    const long long type = types == nullptr ? 0 : types[at];
    if (mask[at] != 0) sum += (ids[at] * 31LL + t * 17 + type * 7) % 997;
  }
#pragma unroll 1
  for (long long j = 0; j < width; ++j) out[row * width + j] = static_cast<float>(sum + j);
}
