#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cuda/buffer.h"
#include "cuda/graph.h"
#include "cuda/stream.h"
#include "runtime/bucket_batches.h"
#include "runtime/packed_places.h"
#include "runtime/shape.h"
#include "runtime/straight_line.h"

namespace searchpipe::runtime {

// What preparing one bucket gave.
struct BucketReport {
  Bucket bucket;
  bool captured = false;
  std::string reason;              // why not captured
  std::size_t graph_nodes = 0;     // kernels, memsets and copies in the graph
  std::size_t replaced_nodes = 0;  // of them memsets and copies that became kernels
  std::string kept_nodes;          // those that did not, or why none did; empty if all nodes are kernels
  float milliseconds = 0.0F;       // one batch on an idle device, median of three
  std::int64_t device_bytes = 0;   // device memory that became used while preparing it
};

// An engine whose work is put on a stream by a function (TensorRT's enqueue,
// ONNX Runtime's run), replayed from CUDA graphs where that can be captured.
//
// Input and output addresses are fixed for the engine's life, since a graph
// keeps the addresses it was captured with: batches come and go by copies on
// the device (100 KB, below 2 us on an H200, against one graph and one
// execution context for each bucket AND slot). What of a packed batch follows
// from the rest is written by a kernel in front of the model's work, in the
// same graph. Graphs are captured largest
// first, so that the activation memory of the largest bucket is found again
// by the others; they share it, hence run on one stream, one after the other.
// Two engines (lanes) are needed to run two batches at once. Unless told
// otherwise, memsets and copies of a graph become kernels (StraightLine).
class GraphEngine {
 public:
  // Where a bucket's arrays lie in device memory.
  struct Addresses {
    std::vector<std::uint64_t> inputs;  // int32, in the order of EngineShape
    std::uint64_t output = 0;           // float32 [rows, output_width]
  };
  // Puts one batch of `bucket` on `stream` and returns without waiting. Throws if it cannot.
  using Enqueue = std::function<void(int index, const Bucket& bucket, const Addresses& addresses,
                                     cuda::StreamHandle stream)>;

  // Allocates the inputs and the output. `enqueue` may be empty until set_enqueue. Throws CudaError, also for
  // a driver that does not load the kernel of packed rows.
  GraphEngine(std::shared_ptr<cuda::Device> device, EngineShape shape, bool straight_line = true);
  ~GraphEngine();

  // The function of a batch; engines often need the stream and the addresses to be built, hence not an
  // argument of the constructor. Before prepare().
  void set_enqueue(Enqueue enqueue) { enqueue_ = std::move(enqueue); }

  // For every bucket, largest first: plain enqueues (lazy initialisation and
  // allocation must not happen during capture), capture, a timed replay. A
  // bucket that cannot be captured keeps the plain enqueue, with the reason,
  // and one whose rewritten graph does not write, bit for bit, what the graph
  // as captured writes, the latter.
  // Throws if the plain enqueue fails, before a capture or after a failed one.
  // `capture` false: plain enqueues only, because of `why_not`.
  void prepare(bool capture, const std::string& why_not = "capture is switched off");

  // Waits for the stream and drops the graphs and the enqueue function with all that it holds; no batch may
  // be started afterwards.
  void close();

  // Starts a batch on stream(), from the fixed input, of which InputBlock::sent_bytes were written, to the
  // fixed output. One thread at a time. Throws std::out_of_range, CudaError, what a plain enqueue throws.
  void launch(int bucket);

  const EngineShape& shape() const { return shape_; }
  const std::vector<BucketCost>& costs() const { return costs_; }
  const std::vector<BucketReport>& reports() const { return reports_; }
  const std::shared_ptr<cuda::Device>& device() const { return device_; }
  cuda::Stream& stream() { return stream_; }
  cuda::DevicePtr input() const { return input_.address(); }
  cuda::DevicePtr output() const { return output_.address(); }
  Addresses addresses(const Bucket& bucket) const;
  bool prepared() const { return prepared_; }

 private:
  void enqueue(std::size_t index, const Addresses& where);
  void prepare_bucket(std::size_t index, bool capture, const std::string& why_not);
  void capture_bucket(std::size_t index, const std::function<void()>& enqueue, BucketReport& report);
  std::string difference(const Bucket& bucket, const cuda::GraphExec& rewritten,
                         const cuda::GraphExec& as_captured);
  std::vector<std::byte> output_of(const Bucket& bucket, const cuda::GraphExec& graph);
  void write_full_rows(const Bucket& bucket);
  void run_until_memory_settles(const std::function<void()>& enqueue);
  void recover_from_failed_capture(const std::function<void()>& enqueue);
  float time_launch(std::size_t index);

  std::shared_ptr<cuda::Device> device_;
  EngineShape shape_;
  Enqueue enqueue_;
  cuda::Stream stream_;
  cuda::DeviceBuffer input_;
  cuda::DeviceBuffer output_;
  std::optional<PackedPlaces> places_;         // of packed rows only
  std::optional<StraightLine> straight_line_;  // before the graphs, which hold its kernels
  std::vector<std::optional<cuda::GraphExec>> graphs_;
  std::vector<BucketCost> costs_;
  std::vector<BucketReport> reports_;
  bool prepared_ = false;
};

}  // namespace searchpipe::runtime
