#pragma once

#include <cstdint>
#include <span>
#include <stdexcept>
#include <vector>

#include "runtime/bucket_batches.h"
#include "runtime/clock.h"
#include "runtime/row_memory.h"
#include "runtime/shape.h"

namespace searchpipe::runtime {

// A row of the output that is also wanted in device memory.
struct DeviceCopy {
  std::int32_t row = 0;
  std::uint64_t address = 0;  // of output_width float32
};

// When it pays to look whether a batch has ended: sleep until `from`, then look again and again; what has not
// ended at `to` is not worth a core any more. It ends at `expected`, or a little later.
struct Watch {
  Clock::time_point from;
  Clock::time_point expected;
  Clock::time_point to;
};

// Runs batches in numbered slots. One thread at a time submits; any may wait,
// one for a slot. A slot is free again once wait() returned or threw, ended()
// answered true or threw, or submit() threw.
class Executor {
 public:
  virtual ~Executor() = default;

  virtual const EngineShape& shape() const = 0;
  // One per bucket of shape().
  virtual const std::vector<BucketCost>& costs() const = 0;
  // True if any shape up to a bucket runs as it is; else batches are filled up to the bucket.
  virtual bool exact_shape() const = 0;
  virtual int slots() const = 0;
  virtual SlotView view(int slot, const Bucket& shape) = 0;
  // Starts the batch that was written to the slot's view. Throws if it could not be started.
  virtual void submit(int slot, int bucket, const Bucket& shape, std::span<const DeviceCopy> copies) = 0;
  // Returns when the slot's output is on the host and its device copies are made; throws what went wrong.
  virtual void wait(int slot) = 0;
  // Called by a thread before it submits or waits, and when it will not any more.
  virtual void enter_thread() {}
  virtual void leave_thread() {}

  // Whether threads that come and go may submit, and watch a batch instead of waiting for it: submit() does
  // not keep anything for its thread, and a batch runs without one. The rest is for such executors only.
  virtual bool watched() const { return false; }
  virtual Watch watch(int) const { throw std::logic_error("this executor's batches cannot be watched"); }
  // Whether the slot's batch has ended, perhaps badly, without waiting or having looked: its slot stays
  // taken.
  virtual bool over(int) const { throw std::logic_error("this executor's batches cannot be watched"); }
  // Whether the slot's batch has ended, without waiting; otherwise as wait().
  virtual bool ended(int) { throw std::logic_error("this executor's batches cannot be watched"); }
  // Lets later work on `stream` (a CUstream of the same device) wait until the slot's batch has ended and its
  // device copies are made; between the slot's submit() and its end. False if there is no device. Throws.
  virtual bool follow(int, std::uintptr_t) { return false; }
};

// A thread's stay with an executor. Throws what enter_thread() throws.
class EnteredThread {
 public:
  explicit EnteredThread(Executor& executor) : executor_(executor) { executor_.enter_thread(); }
  ~EnteredThread() { executor_.leave_thread(); }
  EnteredThread(const EnteredThread&) = delete;
  EnteredThread& operator=(const EnteredThread&) = delete;

 private:
  Executor& executor_;
};

}  // namespace searchpipe::runtime
