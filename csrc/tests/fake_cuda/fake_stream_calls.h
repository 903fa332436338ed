#pragma once

// Streams, events and kernels. Part of fake_cuda.cc, which exports them.

#include "tests/fake_cuda/fake_driver.h"

namespace fake_cuda {
namespace {

int cuMemcpyHtoDAsync(DevicePtr to, const void* from, size_t bytes, void* stream) {
  return copy("cuMemcpyHtoDAsync", reinterpret_cast<void*>(to), from, bytes, true, false, stream);
}
int cuMemcpyDtoHAsync(void* to, DevicePtr from, size_t bytes, void* stream) {
  return copy("cuMemcpyDtoHAsync", to, reinterpret_cast<void*>(from), bytes, false, true, stream);
}
int cuMemcpyDtoDAsync(DevicePtr to, DevicePtr from, size_t bytes, void* stream) {
  return copy("cuMemcpyDtoDAsync", reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes, true,
              true, stream);
}
int set_elements(const char* name, const searchpipe::cuda::MemsetParams& params, void* stream) {
  ENTER(name);
  const size_t row = params.width * params.element_bytes;
  if (params.to % params.element_bytes != 0 || params.pitch % params.element_bytes != 0) return kInvalidValue;
  if (params.height > 1 && params.pitch < row) return kInvalidValue;
  if (!inside_device_memory(params.to, params.pitch * (params.height - 1) + row)) return kInvalidValue;
  const auto work = [=] {
    auto* to = reinterpret_cast<unsigned char*>(params.to);
    for (size_t y = 0; y < params.height; ++y) {
      for (size_t x = 0; x < params.width; ++x) {
        std::memcpy(to + y * params.pitch + x * params.element_bytes, &params.value, params.element_bytes);
      }
    }
  };
  return static_cast<Stream*>(stream)->enqueue({name, work, searchpipe::cuda::kNodeMemset, params});
}
int cuMemsetD8Async(DevicePtr to, unsigned char value, size_t bytes, void* stream) {
  return set_elements("cuMemsetD8Async", {to, 0, value, 1, bytes, 1}, stream);
}
// Those that other libraries put between their kernels, for tests.
int cuMemsetD16Async(DevicePtr to, unsigned short value, size_t width, void* stream) {
  return set_elements("cuMemsetD16Async", {to, 0, value, 2, width, 1}, stream);
}
int cuMemsetD32Async(DevicePtr to, unsigned value, size_t width, void* stream) {
  return set_elements("cuMemsetD32Async", {to, 0, value, 4, width, 1}, stream);
}
int cuMemsetD2D8Async(DevicePtr to, size_t pitch, unsigned char value, size_t width, size_t height,
                      void* stream) {
  return set_elements("cuMemsetD2D8Async", {to, pitch, value, 1, width, height}, stream);
}
int cuMemsetD2D16Async(DevicePtr to, size_t pitch, unsigned short value, size_t width, size_t height,
                       void* stream) {
  return set_elements("cuMemsetD2D16Async", {to, pitch, value, 2, width, height}, stream);
}
int cuMemsetD2D32Async(DevicePtr to, size_t pitch, unsigned value, size_t width, size_t height,
                       void* stream) {
  return set_elements("cuMemsetD2D32Async", {to, pitch, value, 4, width, height}, stream);
}
int cuStreamCreateWithPriority(void** stream, unsigned, int) {
  ENTER("cuStreamCreateWithPriority");
  auto created = std::make_shared<Stream>();
  *stream = created.get();
  std::lock_guard lock(state().mutex);
  state().streams.emplace(created.get(), std::move(created));
  return kSuccess;
}
int cuStreamDestroy(void* stream) {
  std::shared_ptr<Stream> destroyed;
  {
    std::lock_guard lock(state().mutex);
    auto it = state().streams.find(static_cast<Stream*>(stream));
    if (it == state().streams.end()) return kInvalidHandle;
    destroyed = std::move(it->second);
    state().streams.erase(it);
  }
  destroyed->drain();
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
  return static_cast<Stream*>(stream)->enqueue({"event", [=] { it->wait(generation); }, kNodeWaitEvent});
}
int cuStreamBeginCapture(void* stream, int mode) {
  ENTER("cuStreamBeginCapture");
  if (mode != searchpipe::cuda::kCaptureThreadLocal) return kInvalidValue;
  return static_cast<Stream*>(stream)->begin_capture();
}
int cuStreamEndCapture(void* stream, void** graph) {
  faults().call("cuStreamEndCapture");
  std::unique_ptr<Graph> captured;
  *graph = nullptr;
  const int code = static_cast<Stream*>(stream)->end_capture(captured);
  *graph = captured.release();
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
int cuLaunchHostFunc(void* stream, HostFunction function, void* data) {
  ENTER("cuLaunchHostFunc");
  return static_cast<Stream*>(stream)->enqueue({"cuLaunchHostFunc", [=] { function(data); }, kNodeHost});
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
Work kernel_work(void* function, unsigned blocks, unsigned threads, void** arguments) {
  auto kernel = reinterpret_cast<Kernel>(function);
  std::vector<uint64_t> values(static_cast<size_t>(kernel_arguments(kernel)));
  for (size_t i = 0; i < values.size(); ++i) values[i] = *static_cast<uint64_t*>(arguments[i]);
  return [=] {
    gridDim.x = blocks;
    blockDim.x = threads;
    kernel(values.data());
  };
}
int cuLaunchKernel(void* function, unsigned blocks, unsigned, unsigned, unsigned threads, unsigned, unsigned,
                   unsigned, void* stream, void** arguments, void**) {
  ENTER("cuLaunchKernel");
  return static_cast<Stream*>(stream)->enqueue(
      {"cuLaunchKernel", kernel_work(function, blocks, threads, arguments), searchpipe::cuda::kNodeKernel});
}

}  // namespace

}  // namespace fake_cuda
