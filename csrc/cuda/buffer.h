#pragma once

#include <memory>

#include "cuda/device.h"

namespace searchpipe::cuda {

// Device memory, aligned to at least 256 bytes. Movable; freed with the object.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  // Throws CudaError with the size asked for and the memory free.
  DeviceBuffer(std::shared_ptr<Device> device, size_t bytes);
  ~DeviceBuffer();
  DeviceBuffer(DeviceBuffer&& other) noexcept;
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept;

  DevicePtr address() const { return address_; }
  size_t bytes() const { return bytes_; }
  const std::shared_ptr<Device>& device() const { return device_; }

 private:
  std::shared_ptr<Device> device_;
  DevicePtr address_ = 0;
  size_t bytes_ = 0;
};

// Page-locked host memory: the copy engines read and write it without a
// bounce buffer, and copies to and from it are truly asynchronous.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  PinnedBuffer(std::shared_ptr<Device> device, size_t bytes);
  ~PinnedBuffer();
  PinnedBuffer(PinnedBuffer&& other) noexcept;
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept;

  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  std::shared_ptr<Device> device_;
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace searchpipe::cuda
