#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "cuda/buffer.h"
#include "cuda/stream.h"
#include "runtime/executor.h"
#include "runtime/graph_engine.h"

namespace searchpipe::runtime {

// N slots, each with pinned-in, device-in, device-out and pinned-out memory.
// A batch goes through three streams that events chain:
//
//   copy-in    pinned-in -> device-in
//   compute    device-in -> engine's input, engine, engine's output -> device-out   (one stream a lane)
//   copy-out   device-out -> pinned-out
//
// so that while one slot computes, the next is copied in and the one after it
// is packed. With several engines (lanes) batches also compute side by side.
//
// A batch that finds the ring empty has nothing to overlap with: it goes
// through the lane's compute stream alone, straight from and to the pinned
// memory. Whatever comes after it uses the lane's memory on that stream too,
// hence after it.
//
// Waiting: a thread that sleeps until an event is woken some 50 us after it.
// The end of a batch is known beforehand, so wait() sleeps until `spin_s`
// before that, asks again and again until `spin_s` after, and only then sleeps
// until the event. What a bucket takes was timed when it was prepared, with
// full rows; batches that are less full may end sooner, so that it is learnt.
class StagingRing final : public Executor {
 public:
  // All lanes are prepared, on one device and of one shape. Throws std::invalid_argument, CudaError.
  // `spin_s` 0: no thread ever asks, wait() sleeps until the event, and batches cannot be watched.
  explicit StagingRing(std::vector<std::shared_ptr<GraphEngine>> lanes, int slots = 3,
                       double spin_s = 150e-6);
  ~StagingRing() override;

  const EngineShape& shape() const override { return lanes_.front()->shape(); }
  const std::vector<BucketCost>& costs() const override { return lanes_.front()->costs(); }
  bool exact_shape() const override { return false; }
  int slots() const override { return static_cast<int>(slots_.size()); }
  SlotView view(int slot, const Bucket& shape) override;
  void submit(int slot, int bucket, const Bucket& shape, std::span<const DeviceCopy> copies) override;
  void wait(int slot) override;
  void enter_thread() override;
  void leave_thread() override;
  // If all buckets are replayed from graphs: runtimes keep memory for every thread that calls them.
  bool watched() const override { return watched_; }
  Watch watch(int slot) const override;
  bool over(int slot) const override;
  bool ended(int slot) override;
  bool follow(int slot, std::uintptr_t stream) override;

  // What the ring itself takes, engines aside.
  std::size_t device_bytes() const;
  std::size_t pinned_bytes() const;

 private:
  struct Slot {
    explicit Slot(const std::shared_ptr<cuda::Device>& device, const EngineShape& shape);
    cuda::PinnedBuffer pinned_in;
    cuda::PinnedBuffer pinned_out;
    cuda::DeviceBuffer device_in;
    cuda::DeviceBuffer device_out;
    cuda::Event copied_in;
    cuda::Event computed;
    cuda::Event copied_out;
    // Of the batch that runs.
    std::size_t lane = 0;
    std::size_t bucket = 0;
    Clock::time_point submitted;
    bool asked = false;  // whether it has ended, and it had not
  };

  void enqueue_alone(Slot& slot, GraphEngine& lane, int bucket, const Bucket& shape,
                     std::span<const DeviceCopy> copies);
  void enqueue(Slot& slot, GraphEngine& lane, int bucket, const Bucket& shape,
               std::span<const DeviceCopy> copies);
  Clock::time_point begun(const Slot& slot) const;
  Clock::duration timed(std::size_t bucket) const;  // full rows, when it was prepared
  Clock::duration typical(const Slot& slot) const;
  void end(const Slot& slot);
  void learn(const Slot& slot, Clock::duration took);

  std::vector<std::shared_ptr<GraphEngine>> lanes_;
  std::shared_ptr<cuda::Device> device_;
  cuda::Stream copy_in_;
  cuda::Stream copy_out_;
  std::vector<std::unique_ptr<Slot>> slots_;
  std::size_t next_lane_ = 0;
  Clock::duration spin_;
  bool watched_ = false;
  std::atomic<int> running_ = 0;                        // slots between submit() and their end
  std::vector<std::atomic<Clock::rep>> lane_ended_at_;  // the last batch of each lane
  std::vector<std::atomic<Clock::rep>> typical_;        // the shorter ones of late, of each bucket
};

}  // namespace searchpipe::runtime
