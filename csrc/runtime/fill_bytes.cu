// Writes a pattern of 4 bytes again and again, as a memset would: `rows` of `row_bytes`, whose beginnings are `pitch`
// bytes apart. The byte at an address is the pattern's byte (address mod 4), lowest first, so that elements of 1, 2 and
// 4 bytes, aligned as a memset wants them, are all alike. As many blocks as `blocks_a_row`, or a multiple; at least 16
// threads a block. Stores of 16 bytes but for a row's ends.
//
// fill_bytes_ptx.h is compiled from this file by `python scripts/compile_kernels.py`, every parameter 64 bits wide. The
// fake driver of the tests (csrc/tests/fake_cuda) includes it.
#ifdef __CUDACC__
#define NOT_UNROLLED _Pragma("unroll 1")
#else
#define NOT_UNROLLED
#endif

struct alignas(16) FilledSixteen {
  unsigned words[4];
};

extern "C" __global__ void fill_bytes(unsigned char* begin, long long row_bytes, long long pitch, long long rows,
                                      long long pattern, long long blocks_a_row) {
  const unsigned word = static_cast<unsigned>(pattern);
  const FilledSixteen sixteen = {{word, word, word, word}};
  const unsigned blocks = static_cast<unsigned>(blocks_a_row);
  const long long first = blockIdx.x % blocks * blockDim.x + threadIdx.x;
  const long long step = static_cast<long long>(blocks) * blockDim.x;
  const long long rows_at_once = gridDim.x / blocks;
  NOT_UNROLLED
  for (long long row = blockIdx.x / blocks; row < rows; row += rows_at_once) {
    unsigned char* const from = begin + row * pitch;
    const long long to_boundary = static_cast<long long>((0 - reinterpret_cast<unsigned long long>(from)) & 15);
    const long long before = to_boundary < row_bytes ? to_boundary : row_bytes;
    const long long sixteens = (row_bytes - before) / 16;
    const long long after = row_bytes - before - sixteens * 16;
    FilledSixteen* const aligned = reinterpret_cast<FilledSixteen*>(from + before);
    NOT_UNROLLED
    for (long long i = first; i < sixteens; i += step) aligned[i] = sixteen;
    if (first < before) {
      unsigned char* const at = from + first;
      *at = static_cast<unsigned char>(word >> 8 * (reinterpret_cast<unsigned long long>(at) & 3));
    }
    if (first < after) {
      unsigned char* const at = from + before + sixteens * 16 + first;
      *at = static_cast<unsigned char>(word >> 8 * (reinterpret_cast<unsigned long long>(at) & 3));
    }
  }
}
