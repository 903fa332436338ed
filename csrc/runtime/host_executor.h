#pragma once

#include <functional>
#include <vector>

#include "runtime/executor.h"

namespace searchpipe::runtime {

// Batches computed on the host by a function: engines that run on the CPU.
// The function runs on the thread that waits, so that the next batch is
// packed meanwhile.
class HostExecutor final : public Executor {
 public:
  using Compute = std::function<void(const SlotView& view, const Bucket& shape)>;

  // Throws std::invalid_argument for a bad or packed shape or slot count, and for costs that do not match the
  // buckets; without costs a batch is taken to cost 1 ms and 0.1 ms a token (a 12-layer MiniLM on two cores
  // costs 0.2).
  HostExecutor(EngineShape shape, Compute compute, int slots = 2, std::vector<BucketCost> costs = {});

  const EngineShape& shape() const override { return shape_; }
  const std::vector<BucketCost>& costs() const override { return costs_; }
  bool exact_shape() const override { return true; }
  int slots() const override { return static_cast<int>(slots_.size()); }
  SlotView view(int slot, const Bucket& shape) override;
  void submit(int slot, int bucket, const Bucket& shape, std::span<const DeviceCopy> copies) override;
  void wait(int slot) override;

 private:
  struct Slot {
    std::vector<std::int32_t> input;
    std::vector<float> output;
    Bucket shape;
  };

  EngineShape shape_;
  Compute compute_;
  std::vector<BucketCost> costs_;
  std::vector<Slot> slots_;
};

}  // namespace searchpipe::runtime
