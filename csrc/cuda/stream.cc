#include "cuda/stream.h"

#include <utility>

#include "cuda/error.h"

namespace searchpipe::cuda {

Stream::Stream(std::shared_ptr<Device> device, int priority) : device_(std::move(device)) {
  CurrentContext current(*device_);
  check(driver().cuStreamCreateWithPriority(&handle_, kStreamNonBlocking, priority),
        "cuStreamCreateWithPriority");
}

Stream::~Stream() {
  try {
    CurrentContext current(*device_);
    driver().cuStreamDestroy(handle_);
  } catch (const CudaError&) {
  }
}

void Stream::copy_to_device(DevicePtr to, const void* from, size_t bytes) {
  CurrentContext current(*device_);
  check(driver().cuMemcpyHtoDAsync(to, from, bytes, handle_), "cuMemcpyHtoDAsync");
}

void Stream::copy_to_host(void* to, DevicePtr from, size_t bytes) {
  CurrentContext current(*device_);
  check(driver().cuMemcpyDtoHAsync(to, from, bytes, handle_), "cuMemcpyDtoHAsync");
}

void Stream::copy_on_device(DevicePtr to, DevicePtr from, size_t bytes) {
  CurrentContext current(*device_);
  check(driver().cuMemcpyDtoDAsync(to, from, bytes, handle_), "cuMemcpyDtoDAsync");
}

void Stream::fill(DevicePtr to, unsigned char value, size_t bytes) {
  CurrentContext current(*device_);
  check(driver().cuMemsetD8Async(to, value, bytes, handle_), "cuMemsetD8Async");
}

void Stream::call_host(HostFunction function, void* data) {
  CurrentContext current(*device_);
  check(driver().cuLaunchHostFunc(handle_, function, data), "cuLaunchHostFunc");
}

void Stream::wait(const Event& event) {
  CurrentContext current(*device_);
  check(driver().cuStreamWaitEvent(handle_, event.handle(), 0), "cuStreamWaitEvent");
}

void Stream::synchronize() {
  CurrentContext current(*device_);
  check(driver().cuStreamSynchronize(handle_), "cuStreamSynchronize");
}

bool Stream::capturing() const {
  CurrentContext current(*device_);
  int status = 0;
  check(driver().cuStreamIsCapturing(handle_, &status), "cuStreamIsCapturing");
  return status != 0;
}

Event::Event(std::shared_ptr<Device> device, bool timing, bool spin) : device_(std::move(device)) {
  CurrentContext current(*device_);
  const unsigned flags = (timing ? 0 : kEventDisableTiming) | (spin ? 0 : kEventBlockingSync);
  check(driver().cuEventCreate(&handle_, flags), "cuEventCreate");
}

Event::~Event() {
  try {
    CurrentContext current(*device_);
    driver().cuEventDestroy(handle_);
  } catch (const CudaError&) {
  }
}

void Event::record(const Stream& stream) { record(stream.handle()); }

void Event::record(StreamHandle stream) {
  CurrentContext current(*device_);
  check(driver().cuEventRecord(handle_, stream), "cuEventRecord");
}

void Event::hold(StreamHandle stream) const {
  CurrentContext current(*device_);
  check(driver().cuStreamWaitEvent(stream, handle_, 0), "cuStreamWaitEvent");
}

bool Event::done() const {
  CurrentContext current(*device_);
  const Result code = driver().cuEventQuery(handle_);
  if (code == kNotReady) return false;
  check(code, "cuEventQuery");
  return true;
}

void Event::synchronize() const {
  CurrentContext current(*device_);
  check(driver().cuEventSynchronize(handle_), "cuEventSynchronize");
}

float Event::milliseconds_since(const Event& start) const {
  CurrentContext current(*device_);
  float milliseconds = 0.0F;
  check(driver().cuEventElapsedTime(&milliseconds, start.handle(), handle_), "cuEventElapsedTime");
  return milliseconds;
}

}  // namespace searchpipe::cuda
