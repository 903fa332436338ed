#include "runtime/staging_ring.h"

#include <exception>
#include <stdexcept>
#include <string>
#include <utility>

#include "cuda/error.h"

namespace searchpipe::runtime {
namespace {

std::vector<std::shared_ptr<GraphEngine>> checked(std::vector<std::shared_ptr<GraphEngine>> lanes) {
  if (lanes.empty()) throw std::invalid_argument("a staging ring needs at least one engine");
  for (const std::shared_ptr<GraphEngine>& lane : lanes) {
    if (lane == nullptr || !lane->prepared()) {
      throw std::invalid_argument("an engine of the staging ring is not prepared; call prepare() first");
    }
    if (lane->device() != lanes.front()->device() || lane->shape() != lanes.front()->shape()) {
      throw std::invalid_argument(
          "the engines of one staging ring must share device, buckets, layout, inputs and width");
    }
  }
  return lanes;
}

void quiesce(cuda::Stream& stream) noexcept {
  try {
    stream.synchronize();
  } catch (const std::exception&) {  // a dead context runs nothing any more
  }
}

}  // namespace

StagingRing::Slot::Slot(const std::shared_ptr<cuda::Device>& device, const EngineShape& shape)
    : pinned_in(device, shape.max_input_bytes()),
      pinned_out(device, shape.max_output_bytes()),
      device_in(device, shape.max_input_bytes()),
      device_out(device, shape.max_output_bytes()),
      copied_in(device),
      computed(device),
      copied_out(device) {}

StagingRing::StagingRing(std::vector<std::shared_ptr<GraphEngine>> lanes, int slots)
    : lanes_(checked(std::move(lanes))),
      device_(lanes_.front()->device()),
      copy_in_(device_),
      copy_out_(device_) {
  if (slots < 1 || slots > 64) {
    throw std::invalid_argument("slots is " + std::to_string(slots) + ", must be 1 to 64");
  }
  for (int i = 0; i < slots; ++i) slots_.push_back(std::make_unique<Slot>(device_, shape()));
}

StagingRing::~StagingRing() {
  quiesce(copy_in_);
  for (const std::shared_ptr<GraphEngine>& lane : lanes_) quiesce(lane->stream());
  quiesce(copy_out_);
}

void StagingRing::enter_thread() {
  // Left current for the thread's life: the threads are the scorer's own.
  cuda::check(cuda::driver().cuCtxPushCurrent(device_->context()), "cuCtxPushCurrent");
}

SlotView StagingRing::view(int slot, const Bucket& shape) {
  Slot& it = *slots_[static_cast<std::size_t>(slot)];
  return slot_view(this->shape(), shape, it.pinned_in.data(), it.pinned_out.data());
}

void StagingRing::submit(int slot, int bucket, const Bucket& shape, std::span<const DeviceCopy> copies) {
  Slot& it = *slots_[static_cast<std::size_t>(slot)];
  GraphEngine& lane = *lanes_[next_lane_];
  next_lane_ = (next_lane_ + 1) % lanes_.size();
  try {
    enqueue(it, lane, bucket, shape, copies);
  } catch (...) {
    // Whatever was started may still read the slot: it is free only after that.
    quiesce(copy_in_);
    quiesce(lane.stream());
    quiesce(copy_out_);
    throw;
  }
}

void StagingRing::enqueue(Slot& slot, GraphEngine& lane, int bucket, const Bucket& shape,
                          std::span<const DeviceCopy> copies) {
  const EngineShape& engine = this->shape();
  const std::size_t input_bytes = engine.input_bytes(shape);
  const std::size_t output_bytes = engine.output_bytes(shape);
  copy_in_.copy_to_device(slot.device_in.address(), slot.pinned_in.data(), input_bytes);
  slot.copied_in.record(copy_in_);

  cuda::Stream& compute = lane.stream();
  compute.wait(slot.copied_in);
  compute.copy_on_device(lane.input(), slot.device_in.address(), input_bytes);
  lane.launch(bucket);
  compute.copy_on_device(slot.device_out.address(), lane.output(), output_bytes);
  slot.computed.record(compute);

  copy_out_.wait(slot.computed);
  copy_out_.copy_to_host(slot.pinned_out.data(), slot.device_out.address(), output_bytes);
  const std::size_t row_bytes = static_cast<std::size_t>(engine.output_width) * sizeof(float);
  for (const DeviceCopy& copy : copies) {
    copy_out_.copy_on_device(
        copy.address, slot.device_out.address() + row_bytes * static_cast<std::size_t>(copy.row), row_bytes);
  }
  slot.copied_out.record(copy_out_);
}

void StagingRing::wait(int slot) { slots_[static_cast<std::size_t>(slot)]->copied_out.synchronize(); }

std::size_t StagingRing::device_bytes() const {
  return slots_.size() * (shape().max_input_bytes() + shape().max_output_bytes());
}

std::size_t StagingRing::pinned_bytes() const { return device_bytes(); }

}  // namespace searchpipe::runtime
