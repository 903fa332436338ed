#pragma once

// Devices, contexts and memory. Part of fake_cuda.cc, which exports them.

#include "tests/fake_cuda/fake_driver.h"

namespace fake_cuda {
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
// As libraries take a workspace; in a capture the graph's for as long as it lives.
int cuMemAllocAsync(DevicePtr* address, size_t bytes, void* stream) {
  ENTER("cuMemAllocAsync");
  if (bytes == 0) return kInvalidValue;
  std::shared_ptr<void> memory;
  {
    std::lock_guard lock(state().mutex);
    if (state().device_bytes + bytes > state().capacity) return kOutOfMemory;
    memory.reset(std::aligned_alloc(256, (bytes + 255) / 256 * 256), [bytes](void* it) {
      std::lock_guard lock(state().mutex);
      state().device_memory.erase(reinterpret_cast<DevicePtr>(it));
      state().device_bytes -= bytes;
      std::free(it);
    });
    *address = reinterpret_cast<DevicePtr>(memory.get());
    state().device_memory[*address] = bytes;
    state().device_bytes += bytes;
    state().stream_memory[*address] = memory;
  }
  return static_cast<Stream*>(stream)->enqueue(
      {"cuMemAllocAsync", [memory] {}, searchpipe::cuda::kNodeAllocation});
}
int cuMemFreeAsync(DevicePtr address, void* stream) {
  ENTER("cuMemFreeAsync");
  std::shared_ptr<void> memory;
  {
    std::lock_guard lock(state().mutex);
    auto it = state().stream_memory.find(address);
    if (it == state().stream_memory.end()) return kInvalidValue;
    memory = std::move(it->second);
    state().stream_memory.erase(it);
  }
  return static_cast<Stream*>(stream)->enqueue({"cuMemFreeAsync", [memory] {}, kNodeFree});
}
int cuPointerGetAttributes(unsigned count, int* attributes, void** values, DevicePtr address) {
  ENTER("cuPointerGetAttributes");
  const bool on_device = inside_device_memory(address, 1);
  const bool pinned = !on_device && inside_pinned_memory(address);
  for (unsigned i = 0; i < count; ++i) {
    switch (attributes[i]) {
      case searchpipe::cuda::kPointerMemoryType:
        *static_cast<unsigned*>(values[i]) = on_device ? searchpipe::cuda::kMemoryDevice
                                             : pinned  ? searchpipe::cuda::kMemoryHost
                                                       : 0;
        break;
      case searchpipe::cuda::kPointerDevicePointer:
        *static_cast<DevicePtr*>(values[i]) = on_device || pinned ? address : 0;
        break;
      case searchpipe::cuda::kPointerDeviceOrdinal:
        *static_cast<int*>(values[i]) = on_device || pinned ? 0 : -2;
        break;
      case searchpipe::cuda::kPointerIsManaged:
        *static_cast<bool*>(values[i]) = false;
        break;
      default:
        return kInvalidValue;
    }
  }
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

}  // namespace
}  // namespace fake_cuda
