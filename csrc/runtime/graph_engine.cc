#include "runtime/graph_engine.h"

#include <algorithm>
#include <array>
#include <exception>
#include <stdexcept>
#include <utility>

#include "cuda/error.h"
#include "runtime/row_memory.h"

namespace searchpipe::runtime {
namespace {

constexpr int kFewestPlainRuns = 2;
constexpr int kMostPlainRuns = 6;
constexpr int kRecoveryRuns = 3;

EngineShape validated(EngineShape shape) {
  shape.validate();
  return shape;
}

// Lengths of rows that leave nothing of a bucket empty. Packed rows, if the bucket has rows enough, are two
// thirds of the longest: about what a limit leaves of texts whose longest it cuts.
std::vector<std::int32_t> full_rows(const EngineShape& shape, const Bucket& bucket) {
  if (!shape.packed()) return std::vector<std::int32_t>(static_cast<std::size_t>(bucket.rows), bucket.tokens);
  const std::int32_t typical = std::max(2 * shape.longest_row / 3, 1);
  const std::int32_t rows = std::min((bucket.tokens + typical - 1) / typical, bucket.rows);
  std::vector<std::int32_t> lengths(static_cast<std::size_t>(rows), bucket.tokens / rows);
  for (std::int32_t row = 0; row < bucket.tokens % rows; ++row) ++lengths[static_cast<std::size_t>(row)];
  return lengths;
}

}  // namespace

GraphEngine::GraphEngine(std::shared_ptr<cuda::Device> device, EngineShape shape, bool straight_line)
    : device_(std::move(device)),
      shape_(validated(std::move(shape))),
      stream_(device_),
      input_(device_, shape_.max_input_bytes()),
      output_(device_, shape_.max_output_bytes()),
      graphs_(shape_.buckets.size()),
      costs_(shape_.buckets.size()),
      reports_(shape_.buckets.size()) {
  for (std::size_t i = 0; i < reports_.size(); ++i) {
    reports_[i].bucket = shape_.buckets[i];
    reports_[i].reason = "not prepared";
  }
  if (shape_.packed()) places_.emplace(device_);
  if (straight_line) straight_line_.emplace(device_);
}

GraphEngine::~GraphEngine() { close(); }

void GraphEngine::close() {
  try {
    stream_.synchronize();
  } catch (const std::exception&) {  // a dead context has nothing left to wait for
  }
  prepared_ = false;
  for (std::optional<cuda::GraphExec>& graph : graphs_) graph.reset();
  enqueue_ = nullptr;
}

GraphEngine::Addresses GraphEngine::addresses(const Bucket& bucket) const {
  Addresses result;
  const InputBlock block = shape_.input_block(bucket);
  for (std::int32_t input = 0; input < shape_.inputs; ++input) {
    result.inputs.push_back(input_.address() + block.arrays[static_cast<std::size_t>(input)].offset);
  }
  result.output = output_.address();
  return result;
}

void GraphEngine::prepare(bool capture, const std::string& why_not) {
  if (!enqueue_) throw std::logic_error("prepare() before set_enqueue()");
  cuda::CurrentContext current(*device_);
  for (std::size_t i = shape_.buckets.size(); i-- > 0;) prepare_bucket(i, capture, why_not);
  prepared_ = true;
}

void GraphEngine::enqueue(std::size_t index, const Addresses& where) {
  const Bucket& bucket = shape_.buckets[index];
  if (places_) places_->enqueue(shape_, bucket, input_.address(), stream_.handle());
  enqueue_(static_cast<int>(index), bucket, where, stream_.handle());
}

void GraphEngine::prepare_bucket(std::size_t index, bool capture, const std::string& why_not) {
  const Bucket& bucket = shape_.buckets[index];
  const Addresses where = addresses(bucket);
  write_full_rows(bucket);
  BucketReport report;
  report.bucket = bucket;
  const std::size_t free_before = device_->free_bytes();
  const auto enqueue = [&] { this->enqueue(index, where); };
  if (capture) {
    run_until_memory_settles(enqueue);
    try {
      capture_bucket(index, enqueue, report);
      graphs_[index]->upload(stream_);
      report.captured = true;
    } catch (const std::exception& error) {
      graphs_[index].reset();
      report.reason = error.what();
      recover_from_failed_capture(enqueue);
    }
  } else {
    report.reason = why_not;
  }
  report.milliseconds = time_launch(index);
  report.device_bytes = std::max<std::int64_t>(
      static_cast<std::int64_t>(free_before) - static_cast<std::int64_t>(device_->free_bytes()), 0);
  costs_[index].fixed = report.milliseconds;
  reports_[index] = std::move(report);
}

void GraphEngine::capture_bucket(std::size_t index, const std::function<void()>& enqueue,
                                 BucketReport& report) {
  std::function<cuda::Rewritten(cuda::GraphHandle)> rewrite;
  if (straight_line_) rewrite = std::ref(*straight_line_);
  cuda::GraphExec graph = cuda::GraphExec::capture(stream_, enqueue, rewrite);
  if (places_ && graph.nodes() == 1) {
    throw std::runtime_error("nothing of the model was captured: no work was put on the stream");
  }
  const cuda::Rewritten& rewritten = graph.rewritten();
  report.graph_nodes = graph.nodes();
  report.kept_nodes = rewritten.left;
  if (rewritten.replaced > 0) {
    cuda::GraphExec as_captured = cuda::GraphExec::capture(stream_, enqueue);
    const std::string wrong = difference(shape_.buckets[index], graph, as_captured);
    if (wrong.empty()) {
      report.replaced_nodes = rewritten.replaced;
    } else {
      report.kept_nodes = "all: with kernels in their places, " + wrong;
      graph = std::move(as_captured);
    }
  }
  graphs_[index] = std::move(graph);
}

// What is wrong with the first graph if the second is right; empty if nothing is. Throws if the second fails.
std::string GraphEngine::difference(const Bucket& bucket, const cuda::GraphExec& rewritten,
                                    const cuda::GraphExec& as_captured) {
  std::vector<std::byte> found;
  try {
    found = output_of(bucket, rewritten);
  } catch (const cuda::CudaError& error) {
    return error.what();
  }
  return found == output_of(bucket, as_captured) ? "" : "it does not write what it writes without";
}

// For full rows, of rows that are there: what is in the others' places is nobody's business.
std::vector<std::byte> GraphEngine::output_of(const Bucket& bucket, const cuda::GraphExec& graph) {
  constexpr unsigned char kNotANumber =
      0xff;  // four of them are one in float32: what a graph leaves out shows
  const std::size_t row_bytes = static_cast<std::size_t>(shape_.output_width) * sizeof(float);
  std::vector<std::byte> output(full_rows(shape_, bucket).size() * row_bytes);
  stream_.fill(output_.address(), kNotANumber, output.size());
  graph.launch(stream_);
  stream_.copy_to_host(output.data(), output_.address(), output.size());
  stream_.synchronize();
  return output;
}

// What the plain and the timed runs compute: rows without padding, for kernels that skip padding would seem
// faster than they are. The ids are 1, the types 0: every vocabulary has them.
void GraphEngine::write_full_rows(const Bucket& bucket) {
  const std::size_t bytes = shape_.input_block(bucket).sent_bytes;
  std::vector<std::int32_t> block(bytes / sizeof(std::int32_t), 0);
  const SlotView view = slot_view(shape_, bucket, block.data(), nullptr);
  std::fill_n(view.ids, shape_.places(bucket), 1);
  if (view.mask != nullptr) std::fill_n(view.mask, shape_.places(bucket), 1);
  const std::vector<std::int32_t> lengths = full_rows(shape_, bucket);
  if (view.splits != nullptr) std::copy(lengths.begin(), lengths.end(), view.splits);
  complete_rows(lengths, shape_, bucket, view);
  stream_.copy_to_device(input_.address(), block.data(), bytes);
  stream_.synchronize();
}

// Runtimes allocate as they go: in the first run of a shape, and some once more in the second, when they know
// what the first one needed. Capture forbids that, so plain runs go on until one has taken no memory.
void GraphEngine::run_until_memory_settles(const std::function<void()>& enqueue) {
  std::size_t free = device_->free_bytes();
  for (int run = 1; run <= kMostPlainRuns; ++run) {
    enqueue();
    stream_.synchronize();
    const std::size_t left = device_->free_bytes();
    if (run >= kFewestPlainRuns && left == free) break;
    free = left;
  }
}

// The CUDA runtime API keeps the error of a failed call until somebody asks for it; libraries ask after
// launching a kernel, so that what went wrong in the capture fails the next good run. Throws what the last of
// some runs throws.
void GraphEngine::recover_from_failed_capture(const std::function<void()>& enqueue) {
  for (int attempt = 1;; ++attempt) {
    try {
      enqueue();
      stream_.synchronize();
      return;
    } catch (const std::exception&) {
      if (attempt == kRecoveryRuns) throw;
    }
  }
}

float GraphEngine::time_launch(std::size_t index) {
  cuda::Event start(device_, true);
  cuda::Event end(device_, true);
  std::array<float, 3> times{};
  launch(static_cast<int>(index));
  for (float& time : times) {
    start.record(stream_);
    launch(static_cast<int>(index));
    end.record(stream_);
    end.synchronize();
    time = end.milliseconds_since(start);
  }
  std::sort(times.begin(), times.end());
  return times[1];
}

void GraphEngine::launch(int bucket) {
  const auto index = static_cast<std::size_t>(bucket);
  if (index >= graphs_.size()) {
    throw std::out_of_range("bucket " + std::to_string(bucket) + " of " + std::to_string(graphs_.size()));
  }
  if (graphs_[index]) {
    graphs_[index]->launch(stream_);
  } else {
    if (!enqueue_) throw std::logic_error("the engine is closed, or was given nothing to enqueue");
    enqueue(index, addresses(shape_.buckets[index]));
  }
}

}  // namespace searchpipe::runtime
