#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "cuda/driver_api.h"

namespace searchpipe::cuda {

// One GPU, with its primary context retained: the context that the CUDA
// runtime API (torch, cupy, FAISS, ONNX Runtime) uses too, so that addresses
// and streams may be handed to and fro. Any thread.
class Device {
 public:
  // The same object for the same ordinal as long as anybody holds it.
  // Throws std::runtime_error without a driver, std::out_of_range for an unknown ordinal, CudaError.
  static std::shared_ptr<Device> open(int ordinal);

  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  int ordinal() const { return ordinal_; }
  const std::string& name() const { return name_; }
  const std::string& uuid() const { return uuid_; }  // "GPU-" and 32 hexadecimal digits in the usual groups
  int capability_major() const { return capability_major_; }
  int capability_minor() const { return capability_minor_; }
  int multiprocessors() const { return multiprocessors_; }
  size_t total_bytes() const { return total_bytes_; }
  size_t free_bytes() const;
  ContextHandle context() const { return context_; }

 private:
  explicit Device(int ordinal);

  int ordinal_;
  int device_ = 0;
  ContextHandle context_ = nullptr;
  std::string name_;
  std::string uuid_;
  int capability_major_ = 0;
  int capability_minor_ = 0;
  int multiprocessors_ = 0;
  size_t total_bytes_ = 0;
};

// Makes the device's context current to this thread until the end of the
// scope; costs one look-up where it already is. Driver calls need it because
// threads that Python or we start have no current context.
class CurrentContext {
 public:
  explicit CurrentContext(const Device& device);
  ~CurrentContext();
  CurrentContext(const CurrentContext&) = delete;
  CurrentContext& operator=(const CurrentContext&) = delete;

 private:
  bool pushed_ = false;
};

}  // namespace searchpipe::cuda
