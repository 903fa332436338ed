#pragma once

#include <memory>

#include "cuda/device.h"

namespace searchpipe::cuda {

class Event;

// An in-order queue of device work that never waits for the default stream.
// Any thread may enqueue, one at a time: the order of two threads' work is theirs to settle.
class Stream {
 public:
  // A lower priority number runs first (0 is the least; see cuCtxGetStreamPriorityRange).
  explicit Stream(std::shared_ptr<Device> device, int priority = 0);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  StreamHandle handle() const { return handle_; }
  const std::shared_ptr<Device>& device() const { return device_; }

  void copy_to_device(DevicePtr to, const void* from, size_t bytes);
  void copy_to_host(void* to, DevicePtr from, size_t bytes);
  void copy_on_device(DevicePtr to, DevicePtr from, size_t bytes);
  void fill(DevicePtr to, unsigned char value, size_t bytes);
  // `function(data)` runs on a driver thread once everything before it is done; it may call no CUDA function.
  void call_host(HostFunction function, void* data);

  // Later work on this stream waits for the event's last record.
  void wait(const Event& event);
  void synchronize();
  bool capturing() const;

 private:
  std::shared_ptr<Device> device_;
  StreamHandle handle_ = nullptr;
};

// A mark in a stream. Any thread.
class Event {
 public:
  // `timing` costs a timestamp a record; `spin` makes synchronize() burn a core instead of sleeping
  // (some 10 to 40 us sooner).
  explicit Event(std::shared_ptr<Device> device, bool timing = false, bool spin = false);
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  EventHandle handle() const { return handle_; }
  void record(const Stream& stream);
  // As record() and Stream::wait(), for a stream that is somebody else's.
  void record(StreamHandle stream);
  void hold(StreamHandle stream) const;  // its later work waits for the last record
  // True if the last record has been reached (or there was none).
  bool done() const;
  void synchronize() const;
  // From `start` to this one; both need timing and must be done.
  float milliseconds_since(const Event& start) const;

 private:
  std::shared_ptr<Device> device_;
  EventHandle handle_ = nullptr;
};

}  // namespace searchpipe::cuda
