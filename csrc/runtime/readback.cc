#include "runtime/readback.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <string>
#include <thread>

#include "core/relax.h"
#include "cuda/error.h"
#include "runtime/clock.h"

namespace searchpipe::runtime {
namespace {
// What is waited for takes a part of that; beyond, a core is worth more than the 60 us that a sleep
// overshoots.
constexpr std::chrono::microseconds kAsking{1000};
constexpr std::chrono::microseconds kSleep{50};
}  // namespace

Readback::Readback(const std::shared_ptr<cuda::Device>& device, std::size_t bytes)
    : device_(device), device_memory_(device, bytes), host_memory_(device, bytes), copied_(device) {}

Readback::~Readback() {
  try {
    copied_.synchronize();
  } catch (const cuda::CudaError&) {  // a dead context has nothing left to wait for
  }
}

void Readback::fetch(cuda::StreamHandle stream, std::size_t bytes) {
  if (bytes > host_memory_.bytes()) {
    throw std::out_of_range(std::to_string(bytes) + " bytes are more than the " +
                            std::to_string(host_memory_.bytes()) + " that there is room for");
  }
  cuda::CurrentContext current(*device_);
  if (bytes > 0) {
    cuda::check(
        cuda::driver().cuMemcpyDtoHAsync(host_memory_.data(), device_memory_.address(), bytes, stream),
        "cuMemcpyDtoHAsync");
  }
  copied_.record(stream);
}

bool Readback::wait(double seconds) const {
  const Clock::time_point begin = Clock::now();
  const Clock::time_point until = after_seconds(seconds);
  while (!done()) {
    const Clock::time_point now = Clock::now();
    if (now >= until) return false;
    if (now - begin < kAsking) {
      relax();
    } else {
      std::this_thread::sleep_for(std::min<Clock::duration>(kSleep, until - now));
    }
  }
  return true;
}

}  // namespace searchpipe::runtime
