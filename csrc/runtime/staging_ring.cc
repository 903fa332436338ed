#include "runtime/staging_ring.h"

#include <algorithm>
#include <exception>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>

#include "core/relax.h"
#include "cuda/error.h"

namespace searchpipe::runtime {
namespace {

// Sleeping takes so long at least, with Linux's timer slack.
constexpr Clock::duration kShortestSleep = std::chrono::microseconds(60);
// A watcher's batch runs alone, so that it ends when it should, unless the device has slowed down.
constexpr Clock::duration kWatchGrace = std::chrono::milliseconds(1);

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
    : pinned_in(device, shape.max_sent_bytes()),
      pinned_out(device, shape.max_output_bytes()),
      device_in(device, shape.max_sent_bytes()),
      device_out(device, shape.max_output_bytes()),
      copied_in(device),
      computed(device),
      copied_out(device) {}

StagingRing::StagingRing(std::vector<std::shared_ptr<GraphEngine>> lanes, int slots, double spin_s)
    : lanes_(checked(std::move(lanes))),
      device_(lanes_.front()->device()),
      copy_in_(device_),
      copy_out_(device_),
      lane_ended_at_(lanes_.size()),
      typical_(costs().size()) {
  if (!(spin_s >= 0.0 && spin_s <= 0.01)) {
    throw std::invalid_argument("spin_s is " + std::to_string(spin_s) + " s, must be 0 to 0.01");
  }
  spin_ = std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(spin_s));
  const auto captured = [](const auto& lane) {
    return std::ranges::all_of(lane->reports(), [](const BucketReport& it) { return it.captured; });
  };
  watched_ = spin_s > 0.0 && std::ranges::all_of(lanes_, captured);
  if (slots < 1 || slots > 64) {
    throw std::invalid_argument("slots is " + std::to_string(slots) + ", must be 1 to 64");
  }
  for (std::size_t i = 0; i < typical_.size(); ++i) typical_[i] = timed(i).count();
  for (int i = 0; i < slots; ++i) slots_.push_back(std::make_unique<Slot>(device_, shape()));
}

StagingRing::~StagingRing() {
  quiesce(copy_in_);
  for (const std::shared_ptr<GraphEngine>& lane : lanes_) quiesce(lane->stream());
  quiesce(copy_out_);
}

void StagingRing::enter_thread() {
  cuda::check(cuda::driver().cuCtxPushCurrent(device_->context()), "cuCtxPushCurrent");
}

void StagingRing::leave_thread() {
  cuda::ContextHandle popped = nullptr;
  cuda::driver().cuCtxPopCurrent(&popped);
}

SlotView StagingRing::view(int slot, const Bucket& shape) {
  Slot& it = *slots_[static_cast<std::size_t>(slot)];
  return slot_view(this->shape(), shape, it.pinned_in.data(), it.pinned_out.data());
}

void StagingRing::submit(int slot, int bucket, const Bucket& shape, std::span<const DeviceCopy> copies) {
  Slot& it = *slots_[static_cast<std::size_t>(slot)];
  it.lane = next_lane_;
  GraphEngine& lane = *lanes_[next_lane_];
  next_lane_ = (next_lane_ + 1) % lanes_.size();
  const bool alone = running_.fetch_add(1) == 0;
  try {
    if (alone) {
      enqueue_alone(it, lane, bucket, shape, copies);
    } else {
      enqueue(it, lane, bucket, shape, copies);
    }
  } catch (...) {
    // Whatever was started may still read the slot: it is free only after that.
    quiesce(copy_in_);
    quiesce(lane.stream());
    quiesce(copy_out_);
    --running_;
    throw;
  }
  it.bucket = static_cast<std::size_t>(bucket);
  it.asked = false;
  it.submitted = Clock::now();
}

void StagingRing::enqueue_alone(Slot& slot, GraphEngine& lane, int bucket, const Bucket& shape,
                                std::span<const DeviceCopy> copies) {
  const EngineShape& engine = this->shape();
  cuda::Stream& stream = lane.stream();
  stream.copy_to_device(lane.input(), slot.pinned_in.data(), engine.input_block(shape).sent_bytes);
  lane.launch(bucket);
  stream.copy_to_host(slot.pinned_out.data(), lane.output(), engine.output_bytes(shape));
  const std::size_t row_bytes = static_cast<std::size_t>(engine.output_width) * sizeof(float);
  for (const DeviceCopy& copy : copies) {
    stream.copy_on_device(copy.address, lane.output() + row_bytes * static_cast<std::size_t>(copy.row),
                          row_bytes);
  }
  slot.copied_out.record(stream);
}

void StagingRing::enqueue(Slot& slot, GraphEngine& lane, int bucket, const Bucket& shape,
                          std::span<const DeviceCopy> copies) {
  const EngineShape& engine = this->shape();
  const std::size_t input_bytes = engine.input_block(shape).sent_bytes;
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

Clock::time_point StagingRing::begun(const Slot& slot) const {
  // The lane's batches run one after the other.
  return std::max(slot.submitted, Clock::time_point(Clock::duration(lane_ended_at_[slot.lane].load())));
}

Clock::duration StagingRing::timed(std::size_t bucket) const {
  return std::chrono::duration_cast<Clock::duration>(
      std::chrono::duration<double, std::milli>(costs()[bucket].fixed));
}

Clock::duration StagingRing::typical(const Slot& slot) const {
  return Clock::duration(typical_[slot.bucket].load());
}

void StagingRing::end(const Slot& slot) {
  const Clock::time_point now = Clock::now();
  learn(slot, now - begun(slot));
  lane_ended_at_[slot.lane] = now.time_since_epoch().count();
  --running_;
}

// Looking too early costs a core for a while, too late costs the caller: quickly down, slowly up, and one
// that took very long tells no more than one that took a quarter longer.
void StagingRing::learn(const Slot& slot, Clock::duration took) {
  const Clock::duration known = typical(slot);
  Clock::duration next = known + std::min(took - known, known / 4 + spin_) / 16;
  if (!slot.asked) {  // it had ended before the first look; if that was late too, that tells nothing
    next = took < known ? known - std::max(spin_, known / 8) : known;
  } else if (took < known) {
    next = took;
  }
  typical_[slot.bucket] = std::clamp(next, timed(slot.bucket) / 4, 2 * timed(slot.bucket)).count();
}

Watch StagingRing::watch(int slot) const {
  const Slot& it = *slots_[static_cast<std::size_t>(slot)];
  const Clock::time_point begin = begun(it);
  const Clock::time_point expected = begin + typical(it);
  const Clock::time_point from = expected - spin_;
  return {Clock::now() + kShortestSleep < from ? from : Clock::time_point::min(), expected,
          begin + 2 * timed(it.bucket) + kWatchGrace};
}

bool StagingRing::over(int slot) const {
  try {
    return slots_[static_cast<std::size_t>(slot)]->copied_out.done();
  } catch (...) {
    return true;  // ended() tells why
  }
}

bool StagingRing::ended(int slot) {
  Slot& it = *slots_[static_cast<std::size_t>(slot)];
  try {
    if (!it.copied_out.done()) {
      it.asked = true;
      return false;
    }
  } catch (...) {
    end(it);
    throw;
  }
  end(it);
  return true;
}

bool StagingRing::follow(int slot, std::uintptr_t stream) {
  slots_[static_cast<std::size_t>(slot)]->copied_out.hold(reinterpret_cast<cuda::StreamHandle>(stream));
  return true;
}

void StagingRing::wait(int slot) {
  Slot& it = *slots_[static_cast<std::size_t>(slot)];
  try {
    bool done = false;
    if (spin_ > Clock::duration::zero()) {
      const Clock::time_point expected = begun(it) + typical(it);
      if (Clock::now() + kShortestSleep < expected - spin_) std::this_thread::sleep_until(expected - spin_);
      while (!(done = it.copied_out.done())) {
        it.asked = true;
        if (Clock::now() >= expected + spin_) break;
        relax();
      }
    }
    if (!done) it.copied_out.synchronize();
  } catch (...) {
    end(it);
    throw;
  }
  end(it);
}

std::size_t StagingRing::device_bytes() const {
  return slots_.size() * (shape().max_sent_bytes() + shape().max_output_bytes());
}

std::size_t StagingRing::pinned_bytes() const { return device_bytes(); }

}  // namespace searchpipe::runtime
