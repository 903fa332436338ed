#pragma once

// Streams, events, graphs and kernels. Part of fake_cuda.cc, which exports them.

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
int cuGraphInstantiateWithFlags(void** exec, void* graph, unsigned long long) {
  ENTER("cuGraphInstantiateWithFlags");
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
int cuLaunchKernel(void* function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                   void* stream, void** arguments, void**) {
  ENTER("cuLaunchKernel");
  auto kernel = reinterpret_cast<Kernel>(function);
  std::vector<uint64_t> values(static_cast<size_t>(kernel_arguments(kernel)));
  for (size_t i = 0; i < values.size(); ++i) values[i] = *static_cast<uint64_t*>(arguments[i]);
  return static_cast<Stream*>(stream)->enqueue({"cuLaunchKernel", [=] { kernel(values.data()); }});
}

}  // namespace

}  // namespace fake_cuda
