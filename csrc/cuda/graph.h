#pragma once

#include <functional>
#include <memory>
#include <string>

#include "cuda/stream.h"

namespace searchpipe::cuda {

// What became of a graph that was to be rewritten.
struct Rewritten {
  size_t replaced = 0;  // nodes
  std::string left;     // what is not as it should be, or why nothing is; empty if everything is
};

// Device work recorded once and launched as one call. Any thread may launch,
// one at a time; memory that the recorded work names must outlive it.
class GraphExec {
 public:
  // Records what `enqueue` puts on `stream`, in thread-local mode: other
  // threads may go on using CUDA meanwhile, this one may call nothing that
  // synchronises or allocates. Throws what `enqueue` throws, or CudaError if
  // the work cannot be recorded; the stream is usable again either way.
  //
  // `rewrite` gets a copy of what was recorded, to change it with the device's
  // context current; kernels that it puts there must outlive this. If it throws
  // or the copy cannot be used, the graph is as recorded.
  static GraphExec capture(Stream& stream, const std::function<void()>& enqueue,
                           const std::function<Rewritten(GraphHandle)>& rewrite = nullptr);
  // The same for a stream that is somebody else's.
  static GraphExec capture(const std::shared_ptr<Device>& device, StreamHandle stream,
                           const std::function<void()>& enqueue,
                           const std::function<Rewritten(GraphHandle)>& rewrite = nullptr);

  ~GraphExec();
  GraphExec(GraphExec&& other) noexcept;
  GraphExec& operator=(GraphExec&& other) noexcept;

  void launch(Stream& stream) const { launch(stream.handle()); }
  void launch(StreamHandle stream) const;
  // Moves the graph's own data to the device before the first launch has to.
  void upload(Stream& stream) const;
  size_t nodes() const { return nodes_; }
  const Rewritten& rewritten() const { return rewritten_; }

 private:
  GraphExec() = default;
  void instantiate(GraphHandle graph);
  void instantiate_rewritten(GraphHandle graph, const std::function<Rewritten(GraphHandle)>& rewrite);

  std::shared_ptr<Device> device_;
  ExecHandle handle_ = nullptr;
  size_t nodes_ = 0;
  Rewritten rewritten_;
};

}  // namespace searchpipe::cuda
