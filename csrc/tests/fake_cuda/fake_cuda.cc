// A stand-in for libcuda.so.1 on machines without a GPU: the entry points of
// csrc/cuda/driver_api.h on host memory. Built by the tests and named to the
// loader by SEARCHPIPE_LIBCUDA. The fake_cuda_* functions steer it.

#include "tests/fake_cuda/fake_device_calls.h"
#include "tests/fake_cuda/fake_graph_calls.h"
#include "tests/fake_cuda/fake_stream_calls.h"

using namespace fake_cuda;

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int cuGetProcAddress_v2(const char* symbol, void** function, int version, uint64_t, int* status) {
  // A type error here means that driver_api.h and the fake disagree.
#define FAKE_ENTRY(name, arguments) {#name, reinterpret_cast<void*>(static_cast<int(*) arguments>(&name))},
  using searchpipe::cuda::ContextHandle;
  using searchpipe::cuda::CopyParams;
  using searchpipe::cuda::EventHandle;
  using searchpipe::cuda::ExecHandle;
  using searchpipe::cuda::FunctionHandle;
  using searchpipe::cuda::GraphHandle;
  using searchpipe::cuda::KernelNodeParams;
  using searchpipe::cuda::MemsetParams;
  using searchpipe::cuda::ModuleHandle;
  using searchpipe::cuda::NodeHandle;
  using searchpipe::cuda::Result;
  using searchpipe::cuda::StreamHandle;
  static const std::unordered_map<std::string, void*> table = {
      SEARCHPIPE_CUDA_FUNCTIONS(FAKE_ENTRY)
#undef FAKE_ENTRY
#define FAKE_EXTRA(name) {#name, reinterpret_cast<void*>(&name)},
          FAKE_EXTRA(cuMemsetD16Async) FAKE_EXTRA(cuMemsetD32Async) FAKE_EXTRA(cuMemsetD2D8Async)
              FAKE_EXTRA(cuMemsetD2D16Async) FAKE_EXTRA(cuMemsetD2D32Async) FAKE_EXTRA(cuMemAllocAsync)
                  FAKE_EXTRA(cuMemFreeAsync)
#undef FAKE_EXTRA
  };
  auto it = table.find(symbol);
  *function = it == table.end() || version < 12000 ? nullptr : it->second;
  *status = *function == nullptr ? 1 : 0;
  return kSuccess;
}

EXPORT void fake_cuda_fail_call(const char* name, int skip, int times, int code) {
  faults().fail_call(name, skip, times, code);
}
EXPORT void fake_cuda_fail_work(const char* name, int skip, int code) {
  faults().fail_work(name, skip, code);
}
EXPORT void fake_cuda_reset() {
  faults().reset();
  faults().set_held(false);
  faults().delay_us = 0;
}
EXPORT void fake_cuda_hold(int held) { faults().set_held(held != 0); }
EXPORT void fake_cuda_delay(int microseconds) { faults().delay_us = microseconds; }
EXPORT int64_t fake_cuda_count(const char* name) { return faults().count(name); }
EXPORT int64_t fake_cuda_device_bytes() {
  std::lock_guard lock(state().mutex);
  return static_cast<int64_t>(state().device_bytes);
}
EXPORT int64_t fake_cuda_pinned_bytes() {
  std::lock_guard lock(state().mutex);
  return static_cast<int64_t>(state().pinned_bytes);
}
