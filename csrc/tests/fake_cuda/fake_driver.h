#pragma once

// What the fake's calls share: devices, contexts, memory. Part of fake_cuda.cc.

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <unordered_map>

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
  std::map<uint64_t, std::shared_ptr<void>> stream_memory;  // of it what cuMemFreeAsync has not freed
  size_t device_bytes = 0;
  size_t pinned_bytes = 0;
  std::unordered_map<void*, size_t> pinned;
  std::unordered_map<Stream*, std::shared_ptr<Stream>> streams;
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
  for (const auto& [stream, owned] : state().streams) {
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

bool inside_pinned_memory(uint64_t address) {
  std::lock_guard lock(state().mutex);
  for (const auto& [memory, bytes] : state().pinned) {
    const auto begin = reinterpret_cast<uint64_t>(memory);
    if (address >= begin && address < begin + bytes) return true;
  }
  return false;
}

void drain_all() {
  std::vector<std::shared_ptr<Stream>> streams;  // another thread may destroy one meanwhile
  {
    std::lock_guard lock(state().mutex);
    for (const auto& [stream, owned] : state().streams) streams.push_back(owned);
  }
  for (const auto& stream : streams) stream->drain();
}

// A copy, as a node of a graph tells it too.
int copy(const char* name, void* to, const void* from, size_t bytes, bool device_to, bool device_from,
         void* stream) {
  if (int code = enter(name); code != kSuccess) return code;
  if (device_to && !inside_device_memory(reinterpret_cast<uint64_t>(to), bytes)) return kInvalidValue;
  if (device_from && !inside_device_memory(reinterpret_cast<uint64_t>(from), bytes)) return kInvalidValue;
  const auto end = [](const void* memory, bool on_device) {
    searchpipe::cuda::CopyEnd it{};
    it.memory_type = on_device ? searchpipe::cuda::kMemoryDevice : searchpipe::cuda::kMemoryHost;
    if (on_device) {
      it.device = reinterpret_cast<DevicePtr>(memory);
    } else {
      it.host = const_cast<void*>(memory);
    }
    return it;
  };
  const searchpipe::cuda::CopyParams params{end(from, device_from), end(to, device_to), bytes, 1, 1};
  return static_cast<Stream*>(stream)->enqueue(
      {name, [=] { std::memcpy(to, from, bytes); }, searchpipe::cuda::kNodeCopy, params});
}

}  // namespace

}  // namespace fake_cuda

#define ENTER(name) \
  if (int code = enter(name); code != kSuccess) return code
