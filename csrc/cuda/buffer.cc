#include "cuda/buffer.h"

#include <algorithm>
#include <utility>

#include "cuda/error.h"

namespace searchpipe::cuda {

DeviceBuffer::DeviceBuffer(std::shared_ptr<Device> device, size_t bytes)
    : device_(std::move(device)), bytes_(bytes) {
  CurrentContext current(*device_);
  // The driver refuses zero bytes; an empty buffer still wants an address.
  if (Result code = driver().cuMemAlloc(&address_, std::max<size_t>(bytes, 1)); code != kSuccess) {
    size_t free = 0;
    size_t total = 0;
    driver().cuMemGetInfo(&free, &total);
    throw_cuda_error("cuMemAlloc(" + std::to_string(bytes) + " bytes, " + std::to_string(free) + " of " +
                         std::to_string(total) + " free)",
                     code);
  }
}

DeviceBuffer::~DeviceBuffer() {
  if (address_ == 0) return;
  try {
    CurrentContext current(*device_);
    driver().cuMemFree(address_);
  } catch (const CudaError&) {  // the process is ending, or the context is dead: the memory goes with it
  }
}

DeviceBuffer::DeviceBuffer(DeviceBuffer&& other) noexcept { *this = std::move(other); }

DeviceBuffer& DeviceBuffer::operator=(DeviceBuffer&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(address_, other.address_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

PinnedBuffer::PinnedBuffer(std::shared_ptr<Device> device, size_t bytes)
    : device_(std::move(device)), bytes_(bytes) {
  CurrentContext current(*device_);
  if (Result code = driver().cuMemHostAlloc(&data_, std::max<size_t>(bytes, 1), kHostAllocPortable);
      code != kSuccess) {
    throw_cuda_error("cuMemHostAlloc(" + std::to_string(bytes) + " bytes)", code);
  }
}

PinnedBuffer::~PinnedBuffer() {
  if (data_ == nullptr) return;
  try {
    CurrentContext current(*device_);
    driver().cuMemFreeHost(data_);
  } catch (const CudaError&) {
  }
}

PinnedBuffer::PinnedBuffer(PinnedBuffer&& other) noexcept { *this = std::move(other); }

PinnedBuffer& PinnedBuffer::operator=(PinnedBuffer&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

}  // namespace searchpipe::cuda
