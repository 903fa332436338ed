#pragma once

#include <cstddef>
#include <memory>

#include "cuda/buffer.h"
#include "cuda/stream.h"

namespace searchpipe::runtime {

// Device memory that work on some stream fills, and its copy on the host, which follows on that stream:
// neither needs a thread to wait until somebody reads the copy. One thread at a time; any may ask done().
class Readback {
 public:
  // Throws CudaError when memory is short.
  Readback(const std::shared_ptr<cuda::Device>& device, std::size_t bytes);
  ~Readback();  // waits for a copy that is on its way
  Readback(const Readback&) = delete;
  Readback& operator=(const Readback&) = delete;

  cuda::DevicePtr address() const { return device_memory_.address(); }
  std::size_t bytes() const { return host_memory_.bytes(); }
  // Puts a copy of the first `bytes` on the stream, behind what it has already; of 0 bytes, the mark of its
  // end alone. Throws CudaError, std::out_of_range.
  void fetch(cuda::StreamHandle stream, std::size_t bytes);
  // Whether the last fetch() has ended, with all that was before it on its stream; true before the first.
  // Throws CudaError if something of that has failed.
  bool done() const { return copied_.done(); }
  // As done(), after at most `seconds`: asks again and again for a while, then sleeps in between.
  bool wait(double seconds) const;
  // Once done.
  const std::byte* host() const { return static_cast<const std::byte*>(host_memory_.data()); }

 private:
  std::shared_ptr<cuda::Device> device_;
  cuda::DeviceBuffer device_memory_;
  cuda::PinnedBuffer host_memory_;
  cuda::Event copied_;
};

}  // namespace searchpipe::runtime
