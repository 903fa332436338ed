#include "runtime/host_executor.h"

#include <stdexcept>
#include <string>
#include <utility>

namespace searchpipe::runtime {
namespace {
constexpr BucketCost kAssumedCost{1.0, 0.1};
}

HostExecutor::HostExecutor(EngineShape shape, Compute compute, int slots, std::vector<BucketCost> costs)
    : shape_(std::move(shape)), compute_(std::move(compute)), costs_(std::move(costs)) {
  shape_.validate();
  if (shape_.packed()) throw std::invalid_argument("a host engine takes padded rows, not packed ones");
  if (slots < 1 || slots > 64) {
    throw std::invalid_argument("slots is " + std::to_string(slots) + ", must be 1 to 64");
  }
  if (costs_.empty()) costs_.assign(shape_.buckets.size(), kAssumedCost);
  if (costs_.size() != shape_.buckets.size()) {
    throw std::invalid_argument("there are " + std::to_string(costs_.size()) + " costs for " +
                                std::to_string(shape_.buckets.size()) + " buckets");
  }
  slots_.resize(static_cast<std::size_t>(slots));
  for (Slot& slot : slots_) {
    slot.input.resize(shape_.max_input_bytes() / sizeof(std::int32_t));
    slot.output.resize(shape_.max_output_bytes() / sizeof(float));
  }
}

SlotView HostExecutor::view(int slot, const Bucket& shape) {
  Slot& it = slots_[static_cast<std::size_t>(slot)];
  it.shape = shape;
  return slot_view(shape_, shape, it.input.data(), it.output.data());
}

void HostExecutor::submit(int, int, const Bucket&, std::span<const DeviceCopy> copies) {
  if (!copies.empty()) throw std::invalid_argument("a host engine has no device output");
}

void HostExecutor::wait(int slot) {
  const Bucket shape = slots_[static_cast<std::size_t>(slot)].shape;
  compute_(view(slot, shape), shape);
}

}  // namespace searchpipe::runtime
