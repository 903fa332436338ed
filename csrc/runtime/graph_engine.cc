#include "runtime/graph_engine.h"

#include <algorithm>
#include <array>
#include <exception>
#include <stdexcept>
#include <utility>

#include "cuda/error.h"

namespace searchpipe::runtime {
namespace {

constexpr int kFewestPlainRuns = 2;
constexpr int kMostPlainRuns = 6;
constexpr int kRecoveryRuns = 3;

EngineShape validated(EngineShape shape) {
  shape.validate();
  return shape;
}

}  // namespace

GraphEngine::GraphEngine(std::shared_ptr<cuda::Device> device, EngineShape shape)
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
  for (int i = 0; i < shape_.inputs; ++i) {
    result.inputs.push_back(input_.address() +
                            EngineShape::input_stride(bucket) * static_cast<std::size_t>(i));
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

void GraphEngine::prepare_bucket(std::size_t index, bool capture, const std::string& why_not) {
  const Bucket& bucket = shape_.buckets[index];
  const Addresses where = addresses(bucket);
  write_full_rows(bucket);
  BucketReport report;
  report.bucket = bucket;
  const std::size_t free_before = device_->free_bytes();
  const auto enqueue = [&] { enqueue_(static_cast<int>(index), bucket, where, stream_.handle()); };
  if (capture) {
    run_until_memory_settles(enqueue);
    try {
      graphs_[index] = cuda::GraphExec::capture(stream_, enqueue);
      graphs_[index]->upload(stream_);
      report.captured = true;
      report.graph_nodes = graphs_[index]->nodes();
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

// What the plain and the timed runs compute: rows without padding, for kernels that skip padding would seem
// faster than they are. The ids are 1, the types 0: every vocabulary has them.
void GraphEngine::write_full_rows(const Bucket& bucket) {
  const std::vector<std::int32_t> ones(static_cast<std::size_t>(bucket.area()), 1);
  const std::size_t bytes = ones.size() * sizeof(std::int32_t);
  const std::vector<std::uint64_t> inputs = addresses(bucket).inputs;
  stream_.copy_to_device(inputs[0], ones.data(), bytes);
  stream_.copy_to_device(inputs[1], ones.data(), bytes);
  if (inputs.size() == 3) stream_.fill(inputs[2], 0, bytes);
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
  if (graphs_[index]) {
    graphs_[index]->launch(stream_);
  } else {
    if (!enqueue_) throw std::logic_error("the engine is closed");
    enqueue_(bucket, shape_.buckets[index], addresses(shape_.buckets[index]), stream_.handle());
  }
}

}  // namespace searchpipe::runtime
