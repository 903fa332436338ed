// Writes what a packed batch's model takes besides token ids, from what the host sends: where rows end and, for
// token types, where the second part of each row begins. The arrays are those of EngineShape in shape.h; types may be
// null. One block a row; the tokens behind the last row, which belong to none, are shared out among all threads.
//
// packed_places_ptx.h is compiled from this file by `python scripts/compile_kernels.py`, every parameter 64 bits
// wide. The fake driver of the tests (csrc/tests/fake_cuda) includes it.
#ifdef __CUDACC__
#define NOT_UNROLLED _Pragma("unroll 1")
#else
#define NOT_UNROLLED
#endif

extern "C" __global__ void packed_places(const int* __restrict__ ends, const int* __restrict__ splits,
                                         int* __restrict__ positions, int* __restrict__ firsts,
                                         int* __restrict__ token_offset, int* __restrict__ types, long long rows,
                                         long long longest_row, long long tokens) {
  const int row = static_cast<int>(blockIdx.x);
  const int longest = static_cast<int>(longest_row);
  const int begin = ends[row];
  const int length = ends[row + 1] - begin;
  const int all = ends[rows];
  const int split = types == nullptr ? 0 : splits[row];
  if (threadIdx.x == 0) firsts[row] = length > 0 ? begin : 0;
  // In token_offset the places without a token come behind those of all tokens, row by row.
  const int matrix = row * longest;
  int* const without = token_offset + (all + matrix - begin - length);
  NOT_UNROLLED
  for (int place = static_cast<int>(threadIdx.x); place < longest; place += static_cast<int>(blockDim.x)) {
    if (place < length) {
      const int token = begin + place;
      positions[token] = place;
      token_offset[token] = matrix + place;
      if (types != nullptr) types[token] = place < split ? 0 : 1;
    } else {
      without[place] = matrix + place;
    }
  }
  const int step = static_cast<int>(gridDim.x * blockDim.x);
  NOT_UNROLLED
  for (int token = all + static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); token < tokens; token += step) {
    positions[token] = 0;
    if (types != nullptr) types[token] = 0;
  }
}
