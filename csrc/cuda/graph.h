#pragma once

#include <functional>
#include <memory>

#include "cuda/stream.h"

namespace searchpipe::cuda {

// Device work recorded once and launched as one call. Any thread may launch,
// one at a time; memory that the recorded work names must outlive it.
class GraphExec {
 public:
  // Records what `enqueue` puts on `stream`, in thread-local mode: other
  // threads may go on using CUDA meanwhile, this one may call nothing that
  // synchronises or allocates. Throws what `enqueue` throws, or CudaError if
  // the work cannot be recorded; the stream is usable again either way.
  static GraphExec capture(Stream& stream, const std::function<void()>& enqueue);

  ~GraphExec();
  GraphExec(GraphExec&& other) noexcept;
  GraphExec& operator=(GraphExec&& other) noexcept;

  void launch(Stream& stream) const;
  // Moves the graph's own data to the device before the first launch has to.
  void upload(Stream& stream) const;
  size_t nodes() const { return nodes_; }

 private:
  GraphExec() = default;

  std::shared_ptr<Device> device_;
  ExecHandle handle_ = nullptr;
  size_t nodes_ = 0;
};

}  // namespace searchpipe::cuda
