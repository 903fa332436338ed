#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/bucket_batches.h"
#include "runtime/row_memory.h"
#include "runtime/shape.h"

namespace searchpipe::runtime {

// A row of the output that is also wanted in device memory.
struct DeviceCopy {
  std::int32_t row = 0;
  std::uint64_t address = 0;  // of output_width float32
};

// Runs batches in numbered slots. One thread submits, one other waits; a slot
// is free again once wait() returned, or submit() threw.
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
  // Called once by each of the two threads before anything else.
  virtual void enter_thread() {}
};

}  // namespace searchpipe::runtime
