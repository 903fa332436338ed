// A stand-in for libcuda.so.1 on machines without a GPU: the entry points of
// csrc/cuda/driver_api.h on host memory. Built by the tests and named to the
// loader by SEARCHPIPE_LIBCUDA. The fake_cuda_* functions at the end steer it.

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <unordered_map>
#include <unordered_set>

#include "cuda/driver_api.h"
#include "tests/fake_cuda/fake_kernels.h"
#include "tests/fake_cuda/fake_state.h"

namespace fake_cuda {

Faults& faults() {
  static Faults* instance = new Faults;
  return *instance;
}

namespace {

using searchpipe::cuda::DevicePtr;
using searchpipe::cuda::HostFunction;
using searchpipe::cuda::Uuid;

struct Module {
  std::string text;
};

struct Driver {
  std::mutex mutex;
  bool initialized = false;
  int retained = 0;
  std::map<uint64_t, size_t> device_memory;
  size_t device_bytes = 0;
  size_t pinned_bytes = 0;
  std::unordered_map<void*, size_t> pinned;
  std::unordered_set<Stream*> streams;
  size_t capacity = size_t{1} << 30;
};

Driver& state() {
  static Driver* instance = new Driver;
  return *instance;
}

int context_token;
thread_local std::vector<void*> context_stack;

// What a call answers before it does anything: a planned failure, a dead context, or no context at all.
int enter(const char* name, bool needs_context = true) {
  if (int code = faults().call(name); code != kSuccess) return code;
  if (int code = faults().sticky(); code != kSuccess) return code;
  if (needs_context && (context_stack.empty() || context_stack.back() == nullptr)) return kInvalidContext;
  return kSuccess;
}

// Calls that capture forbids to the capturing thread spoil its capture.
int refuse_while_capturing() {
  std::lock_guard lock(state().mutex);
  for (Stream* stream : state().streams) {
    if (stream->spoil_own_capture()) return kCaptureUnsupported;
  }
  return kSuccess;
}

bool inside_device_memory(uint64_t address, size_t bytes) {
  std::lock_guard lock(state().mutex);
  auto it = state().device_memory.upper_bound(address);
  if (it == state().device_memory.begin()) return false;
  --it;
  return address + bytes <= it->first + it->second;
}

void drain_all() {
  std::vector<Stream*> streams;
  {
    std::lock_guard lock(state().mutex);
    streams.assign(state().streams.begin(), state().streams.end());
  }
  for (Stream* stream : streams) stream->drain();
}

int copy(const char* name, void* to, const void* from, size_t bytes, bool device_to, bool device_from, void* stream) {
  if (int code = enter(name); code != kSuccess) return code;
  if (device_to && !inside_device_memory(reinterpret_cast<uint64_t>(to), bytes)) return kInvalidValue;
  if (device_from && !inside_device_memory(reinterpret_cast<uint64_t>(from), bytes)) return kInvalidValue;
  return static_cast<Stream*>(stream)->enqueue({name, [=] { std::memcpy(to, from, bytes); }});
}

}  // namespace
}  // namespace fake_cuda

using namespace fake_cuda;

#define EXPORT extern "C" __attribute__((visibility("default")))
#define ENTER(name) \
  if (int code = enter(name); code != kSuccess) return code

namespace {

int cuInit(unsigned) {
  if (int code = faults().call("cuInit"); code != kSuccess) return code;
  state().initialized = true;
  return kSuccess;
}
int cuDriverGetVersion(int* version) {
  *version = 13000;
  return kSuccess;
}
int cuGetErrorName(int error, const char** name) {
  static const std::map<int, const char*> names = {
      {0, "CUDA_SUCCESS"},
      {1, "CUDA_ERROR_INVALID_VALUE"},
      {2, "CUDA_ERROR_OUT_OF_MEMORY"},
      {3, "CUDA_ERROR_NOT_INITIALIZED"},
      {201, "CUDA_ERROR_INVALID_CONTEXT"},
      {700, "CUDA_ERROR_ILLEGAL_ADDRESS"},
      {719, "CUDA_ERROR_LAUNCH_FAILED"},
      {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"},
      {901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"},
  };
  auto it = names.find(error);
  *name = it == names.end() ? nullptr : it->second;
  return it == names.end() ? kInvalidValue : kSuccess;
}
int cuGetErrorString(int error, const char** text) {
  static const std::map<int, const char*> texts = {
      {2, "out of memory"},
      {700, "an illegal memory access was encountered"},
      {719, "unspecified launch failure"},
      {900, "operation not permitted when stream is capturing"},
      {901, "operation failed due to a previous error during capture"},
  };
  auto it = texts.find(error);
  *text = it == texts.end() ? "no text in the fake" : it->second;
  return kSuccess;
}
int cuDeviceGetCount(int* count) {
  if (!state().initialized) return kNotInitialized;
  const char* chosen = std::getenv("FAKE_CUDA_DEVICES");
  *count = chosen == nullptr ? 1 : std::atoi(chosen);
  return kSuccess;
}
int cuDeviceGet(int* device, int ordinal) {
  *device = ordinal;
  return kSuccess;
}
int cuDeviceGetName(char* name, int length, int) {
  std::strncpy(name, "Fake GPU", static_cast<size_t>(length));
  return kSuccess;
}
int cuDeviceGetUuid(Uuid* uuid, int device) {
  for (int i = 0; i < 16; ++i) uuid->bytes[i] = static_cast<char>(i + device);
  return kSuccess;
}
int cuDeviceGetAttribute(int* value, int attribute, int) {
  *value = attribute == 16 ? 4 : attribute == 75 ? 9 : 0;
  return kSuccess;
}
int cuDeviceTotalMem(size_t* bytes, int) {
  *bytes = state().capacity;
  return kSuccess;
}
int cuDevicePrimaryCtxRetain(void** context, int) {
  if (int code = enter("cuDevicePrimaryCtxRetain", false); code != kSuccess) return code;
  *context = &context_token;
  std::lock_guard lock(state().mutex);
  ++state().retained;
  return kSuccess;
}
int cuDevicePrimaryCtxRelease(int) {
  std::lock_guard lock(state().mutex);
  --state().retained;
  return kSuccess;
}
int cuCtxGetCurrent(void** context) {
  *context = context_stack.empty() ? nullptr : context_stack.back();
  return kSuccess;
}
int cuCtxPushCurrent(void* context) {
  context_stack.push_back(context);
  return kSuccess;
}
int cuCtxPopCurrent(void** context) {
  if (context_stack.empty()) return kInvalidContext;
  *context = context_stack.back();
  context_stack.pop_back();
  return kSuccess;
}
int cuMemGetInfo(size_t* free, size_t* total) {
  ENTER("cuMemGetInfo");
  std::lock_guard lock(state().mutex);
  *total = state().capacity;
  *free = state().capacity - state().device_bytes;
  return kSuccess;
}
int cuMemAlloc(DevicePtr* address, size_t bytes) {
  ENTER("cuMemAlloc");
  if (bytes == 0) return kInvalidValue;
  if (int code = refuse_while_capturing(); code != kSuccess) return code;
  std::lock_guard lock(state().mutex);
  if (state().device_bytes + bytes > state().capacity) return kOutOfMemory;
  void* memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  *address = reinterpret_cast<DevicePtr>(memory);
  state().device_memory[*address] = bytes;
  state().device_bytes += bytes;
  return kSuccess;
}
int cuMemFree(DevicePtr address) {
  faults().call("cuMemFree");
  drain_all();  // a real driver waits too
  std::lock_guard lock(state().mutex);
  auto it = state().device_memory.find(address);
  if (it == state().device_memory.end()) return kInvalidValue;
  state().device_bytes -= it->second;
  state().device_memory.erase(it);
  std::free(reinterpret_cast<void*>(address));
  return kSuccess;
}
int cuMemHostAlloc(void** address, size_t bytes, unsigned) {
  ENTER("cuMemHostAlloc");
  if (int code = refuse_while_capturing(); code != kSuccess) return code;
  *address = std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
  std::lock_guard lock(state().mutex);
  state().pinned[*address] = bytes;
  state().pinned_bytes += bytes;
  return kSuccess;
}
int cuMemFreeHost(void* address) {
  drain_all();
  std::lock_guard lock(state().mutex);
  auto it = state().pinned.find(address);
  if (it == state().pinned.end()) return kInvalidValue;
  state().pinned_bytes -= it->second;
  state().pinned.erase(it);
  std::free(address);
  return kSuccess;
}
int cuMemcpyHtoDAsync(DevicePtr to, const void* from, size_t bytes, void* stream) {
  return copy("cuMemcpyHtoDAsync", reinterpret_cast<void*>(to), from, bytes, true, false, stream);
}
int cuMemcpyDtoHAsync(void* to, DevicePtr from, size_t bytes, void* stream) {
  return copy("cuMemcpyDtoHAsync", to, reinterpret_cast<void*>(from), bytes, false, true, stream);
}
int cuMemcpyDtoDAsync(DevicePtr to, DevicePtr from, size_t bytes, void* stream) {
  return copy("cuMemcpyDtoDAsync", reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes, true, true,
              stream);
}
int cuMemsetD8Async(DevicePtr to, unsigned char value, size_t bytes, void* stream) {
  ENTER("cuMemsetD8Async");
  if (!inside_device_memory(to, bytes)) return kInvalidValue;
  return static_cast<Stream*>(stream)->enqueue(
      {"cuMemsetD8Async", [=] { std::memset(reinterpret_cast<void*>(to), value, bytes); }});
}
int cuStreamCreateWithPriority(void** stream, unsigned, int) {
  ENTER("cuStreamCreateWithPriority");
  auto* created = new Stream;
  std::lock_guard lock(state().mutex);
  state().streams.insert(created);
  *stream = created;
  return kSuccess;
}
int cuStreamDestroy(void* stream) {
  auto* it = static_cast<Stream*>(stream);
  {
    std::lock_guard lock(state().mutex);
    if (state().streams.erase(it) == 0) return kInvalidHandle;
  }
  delete it;
  return kSuccess;
}
int cuStreamSynchronize(void* stream) {
  ENTER("cuStreamSynchronize");
  const int code = static_cast<Stream*>(stream)->synchronize();
  return code != kSuccess ? code : faults().sticky();
}
int cuStreamWaitEvent(void* stream, void* event, unsigned) {
  ENTER("cuStreamWaitEvent");
  auto* it = static_cast<Event*>(event);
  uint64_t generation = 0;
  {
    std::lock_guard lock(it->mutex);
    generation = it->recorded;
  }
  return static_cast<Stream*>(stream)->enqueue({"event", [=] { it->wait(generation); }});
}
int cuStreamBeginCapture(void* stream, int mode) {
  ENTER("cuStreamBeginCapture");
  if (mode != searchpipe::cuda::kCaptureThreadLocal) return kInvalidValue;
  return static_cast<Stream*>(stream)->begin_capture();
}
int cuStreamEndCapture(void* stream, void** graph) {
  faults().call("cuStreamEndCapture");
  std::shared_ptr<Graph> captured;
  *graph = nullptr;
  const int code = static_cast<Stream*>(stream)->end_capture(captured);
  if (code == kSuccess) *graph = new std::shared_ptr<Graph>(std::move(captured));
  return code;
}
int cuStreamIsCapturing(void* stream, int* status) {
  ENTER("cuStreamIsCapturing");
  *status = static_cast<Stream*>(stream)->capturing() ? 1 : 0;
  return kSuccess;
}
int cuEventCreate(void** event, unsigned flags) {
  ENTER("cuEventCreate");
  auto* created = new Event;
  created->timing = (flags & searchpipe::cuda::kEventDisableTiming) == 0;
  *event = created;
  return kSuccess;
}
int cuEventDestroy(void* event) {
  drain_all();
  delete static_cast<Event*>(event);
  return kSuccess;
}
int cuEventRecord(void* event, void* stream) {
  ENTER("cuEventRecord");
  auto* it = static_cast<Event*>(event);
  if (static_cast<Stream*>(stream)->capturing()) return kCaptureUnsupported;
  uint64_t generation = 0;
  {
    std::lock_guard lock(it->mutex);
    generation = ++it->recorded;
  }
  return static_cast<Stream*>(stream)->enqueue({"event", [=] { it->complete(generation); }});
}
int cuEventQuery(void* event) {
  ENTER("cuEventQuery");
  auto* it = static_cast<Event*>(event);
  std::lock_guard lock(it->mutex);
  return it->completed >= it->recorded ? kSuccess : kNotReady;
}
int cuEventSynchronize(void* event) {
  ENTER("cuEventSynchronize");
  auto* it = static_cast<Event*>(event);
  uint64_t generation = 0;
  {
    std::lock_guard lock(it->mutex);
    generation = it->recorded;
  }
  it->wait(generation);
  return faults().sticky();
}
int cuEventElapsedTime(float* milliseconds, void* start, void* end) {
  ENTER("cuEventElapsedTime");
  auto* from = static_cast<Event*>(start);
  auto* to = static_cast<Event*>(end);
  if (!from->timing || !to->timing) return kInvalidHandle;
  std::scoped_lock lock(from->mutex, to->mutex);
  *milliseconds = std::chrono::duration<float, std::milli>(to->at - from->at).count();
  return kSuccess;
}
int cuGraphInstantiate(void** exec, void* graph, unsigned long long) {
  ENTER("cuGraphInstantiate");
  *exec = new Exec{*static_cast<std::shared_ptr<Graph>*>(graph)};
  return kSuccess;
}
int cuGraphGetNodes(void* graph, void**, size_t* count) {
  ENTER("cuGraphGetNodes");
  *count = (*static_cast<std::shared_ptr<Graph>*>(graph))->nodes.size();
  return kSuccess;
}
int cuGraphDestroy(void* graph) {
  delete static_cast<std::shared_ptr<Graph>*>(graph);
  return kSuccess;
}
int cuGraphExecDestroy(void* exec) {
  delete static_cast<Exec*>(exec);
  return kSuccess;
}
int cuGraphUpload(void*, void*) {
  ENTER("cuGraphUpload");
  return kSuccess;
}
int cuGraphLaunch(void* exec, void* stream) {
  ENTER("cuGraphLaunch");
  std::shared_ptr<const Graph> graph = static_cast<Exec*>(exec)->graph;
  return static_cast<Stream*>(stream)->enqueue({"cuGraphLaunch", [graph] {
                                                  for (const Op& node : graph->nodes) node.work();
                                                }});
}
int cuLaunchHostFunc(void* stream, HostFunction function, void* data) {
  ENTER("cuLaunchHostFunc");
  return static_cast<Stream*>(stream)->enqueue({"cuLaunchHostFunc", [=] { function(data); }});
}
int cuModuleLoadData(void** module, const void* image) {
  ENTER("cuModuleLoadData");
  std::string text(static_cast<const char*>(image));
  if (text.find(".entry") == std::string::npos) return kInvalidImage;
  *module = new Module{std::move(text)};
  return kSuccess;
}
int cuModuleUnload(void* module) {
  delete static_cast<Module*>(module);
  return kSuccess;
}
int cuModuleGetFunction(void** function, void* module, const char* name) {
  ENTER("cuModuleGetFunction");
  const std::string& text = static_cast<Module*>(module)->text;
  if (text.find(".entry " + std::string(name) + "(") == std::string::npos) return kNotFound;
  Kernel kernel = find_kernel(name);
  *function = reinterpret_cast<void*>(kernel);
  return kernel == nullptr ? kNotFound : kSuccess;
}
int cuLaunchKernel(void* function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void* stream,
                   void** arguments, void**) {
  ENTER("cuLaunchKernel");
  std::vector<uint64_t> values(kKernelArguments);
  for (int i = 0; i < kKernelArguments; ++i) values[static_cast<size_t>(i)] = *static_cast<uint64_t*>(arguments[i]);
  auto kernel = reinterpret_cast<Kernel>(function);
  return static_cast<Stream*>(stream)->enqueue({"cuLaunchKernel", [=] { kernel(values.data()); }});
}

}  // namespace

EXPORT int cuGetProcAddress_v2(const char* symbol, void** function, int version, uint64_t, int* status) {
  // A type error here means that driver_api.h and the fake disagree.
#define FAKE_ENTRY(name, arguments) {#name, reinterpret_cast<void*>(static_cast<int(*) arguments>(&name))},
  using searchpipe::cuda::ContextHandle;
  using searchpipe::cuda::EventHandle;
  using searchpipe::cuda::ExecHandle;
  using searchpipe::cuda::FunctionHandle;
  using searchpipe::cuda::GraphHandle;
  using searchpipe::cuda::ModuleHandle;
  using searchpipe::cuda::Result;
  using searchpipe::cuda::StreamHandle;
  static const std::unordered_map<std::string, void*> table = {SEARCHPIPE_CUDA_FUNCTIONS(FAKE_ENTRY)};
#undef FAKE_ENTRY
  auto it = table.find(symbol);
  *function = it == table.end() || version < 12000 ? nullptr : it->second;
  *status = *function == nullptr ? 1 : 0;
  return kSuccess;
}

EXPORT void fake_cuda_fail_call(const char* name, int skip, int times, int code) {
  faults().fail_call(name, skip, times, code);
}
EXPORT void fake_cuda_fail_work(const char* name, int skip, int code) { faults().fail_work(name, skip, code); }
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
