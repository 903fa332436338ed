// Copies `bytes` between arrays that do not overlap, in the device's memory or in page-locked memory of the host, by 16
// bytes where both lie alike to a boundary of 16, by 4 where to one of 4. At least 16 threads a block.
//
// copy_bytes_ptx.h is compiled from this file by `python scripts/compile_kernels.py`, every parameter 64 bits wide. The
// fake driver of the tests (csrc/tests/fake_cuda) includes it.
#ifdef __CUDACC__
#define NOT_UNROLLED _Pragma("unroll 1")
#else
#define NOT_UNROLLED
#endif

struct alignas(16) CopiedSixteen {
  unsigned words[4];
};

extern "C" __global__ void copy_bytes(unsigned char* to, const unsigned char* from, long long bytes) {
  const long long first = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
  const long long step = static_cast<long long>(gridDim.x) * blockDim.x;
  const unsigned long long address = reinterpret_cast<unsigned long long>(to);
  const unsigned long long apart = address ^ reinterpret_cast<unsigned long long>(from);
  const long long unit = (apart & 15) == 0 ? 16 : (apart & 3) == 0 ? 4 : 1;
  const long long to_boundary = static_cast<long long>(0 - address) & (unit - 1);
  const long long before = to_boundary < bytes ? to_boundary : bytes;
  const long long after = (bytes - before) & (unit - 1);
  const long long middle = bytes - before - after;
  unsigned char* const into = to + before;
  const unsigned char* const out_of = from + before;
  if (unit == 16) {
    NOT_UNROLLED
    for (long long i = first; i < middle >> 4; i += step) {
      reinterpret_cast<CopiedSixteen*>(into)[i] = reinterpret_cast<const CopiedSixteen*>(out_of)[i];
    }
  } else if (unit == 4) {
    NOT_UNROLLED
    for (long long i = first; i < middle >> 2; i += step) {
      reinterpret_cast<unsigned*>(into)[i] = reinterpret_cast<const unsigned*>(out_of)[i];
    }
  } else {
    NOT_UNROLLED
    for (long long i = first; i < middle; i += step) into[i] = out_of[i];
  }
  if (first < before) to[first] = from[first];
  if (first < after) into[middle + first] = out_of[middle + first];
}
