#pragma once

// The state behind the fake driver: streams are real threads that run their
// work in order, so that the runtime's ordering mistakes show up as wrong
// results, or as races under ThreadSanitizer.

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/fake_cuda/fake_graph.h"

namespace fake_cuda {

// CUresult values that the fake gives.
enum : int {
  kSuccess = 0,
  kInvalidValue = 1,
  kOutOfMemory = 2,
  kNotInitialized = 3,
  kNoDevice = 100,
  kInvalidDevice = 101,
  kInvalidImage = 200,
  kInvalidContext = 201,
  kInvalidHandle = 400,
  kLossyQuery = 402,
  kNotFound = 500,
  kNotReady = 600,
  kIllegalAddress = 700,
  kLaunchFailed = 719,
  kNotSupported = 801,
  kCaptureUnsupported = 900,
  kCaptureInvalidated = 901,
  kCaptureWrongThread = 908,
};

struct Event {
  std::mutex mutex;
  std::condition_variable reached;
  uint64_t recorded = 0;
  uint64_t completed = 0;
  bool timing = false;
  std::chrono::steady_clock::time_point at;

  void complete(uint64_t generation) {
    {
      std::lock_guard lock(mutex);
      if (generation > completed) completed = generation;
      at = std::chrono::steady_clock::now();
    }
    reached.notify_all();
  }
  void wait(uint64_t generation) {
    std::unique_lock lock(mutex);
    reached.wait(lock, [&] { return completed >= generation; });
  }
};

// Planned failures, counters and the gate, shared by all streams.
class Faults {
 public:
  // The next `times` calls of `name` after `skip` more of them return `code`.
  void fail_call(const std::string& name, int skip, int times, int code) {
    std::lock_guard lock(mutex_);
    calls_[name] = Plan{skip, times, code};
  }
  // The stream work `name` fails while it runs, after `skip` more: from then on every call answers `code`.
  void fail_work(const std::string& name, int skip, int code) {
    std::lock_guard lock(mutex_);
    works_[name] = Plan{skip, 1, code};
  }
  void reset() {
    std::lock_guard lock(mutex_);
    calls_.clear();
    works_.clear();
    sticky_ = kSuccess;
  }
  // What call `name` answers; counts it.
  int call(const std::string& name) {
    std::lock_guard lock(mutex_);
    ++counts_[name];
    return take(calls_, name);
  }
  bool work_may_run(const std::string& name) {
    std::lock_guard lock(mutex_);
    if (sticky_ != kSuccess) return false;
    const int code = take(works_, name);
    if (code != kSuccess) sticky_ = code;
    return code == kSuccess;
  }
  int sticky() {
    std::lock_guard lock(mutex_);
    return sticky_;
  }
  int64_t count(const std::string& name) {
    std::lock_guard lock(mutex_);
    return counts_[name];
  }
  void set_held(bool held) {
    {
      std::lock_guard lock(mutex_);
      held_ = held;
    }
    released_.notify_all();
  }
  void wait_while_held() {
    std::unique_lock lock(mutex_);
    released_.wait(lock, [&] { return !held_; });
  }
  std::atomic<int> delay_us{0};  // slept before each piece of stream work

 private:
  struct Plan {
    int skip;
    int times;
    int code;
  };
  static int take(std::map<std::string, Plan>& plans, const std::string& name) {
    auto it = plans.find(name);
    if (it == plans.end()) return kSuccess;
    if (it->second.skip-- > 0) return kSuccess;
    const int code = it->second.code;
    if (--it->second.times <= 0) plans.erase(it);
    return code;
  }
  std::mutex mutex_;
  std::condition_variable released_;
  std::map<std::string, Plan> calls_;
  std::map<std::string, Plan> works_;
  std::map<std::string, int64_t> counts_;
  int sticky_ = kSuccess;
  bool held_ = false;
};

Faults& faults();

class Stream {
 public:
  Stream() : thread_([this] { run(); }) {}
  ~Stream() {
    {
      std::lock_guard lock(mutex_);
      closing_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  // Runs `op` in order, or records it while the stream captures.
  int enqueue(Op op) {
    std::lock_guard lock(mutex_);
    if (capture_ != nullptr) {
      capture_->record(std::move(op));
      return kSuccess;
    }
    queue_.push_back(std::move(op));
    ++submitted_;
    changed_.notify_all();
    return kSuccess;
  }
  int synchronize() {
    std::unique_lock lock(mutex_);
    if (capture_ != nullptr) {
      invalidated_ = true;
      return kCaptureUnsupported;
    }
    wait_for_submitted(lock);
    return kSuccess;
  }
  // As synchronize(), for calls that wait for a device without touching anybody's capture.
  void drain() {
    std::unique_lock lock(mutex_);
    wait_for_submitted(lock);
  }
  int begin_capture() {
    std::lock_guard lock(mutex_);
    if (capture_ != nullptr) return kInvalidValue;
    capture_ = std::make_unique<Graph>();
    capturer_ = std::this_thread::get_id();
    invalidated_ = false;
    return kSuccess;
  }
  int end_capture(std::unique_ptr<Graph>& graph) {
    std::lock_guard lock(mutex_);
    if (capture_ == nullptr) return kInvalidValue;
    if (capturer_ != std::this_thread::get_id()) return kCaptureWrongThread;
    graph = std::move(capture_);
    capture_ = nullptr;
    if (invalidated_) graph = nullptr;
    return invalidated_ ? kCaptureInvalidated : kSuccess;
  }
  bool capturing() {
    std::lock_guard lock(mutex_);
    return capture_ != nullptr;
  }
  // A call that capture forbids: spoils the capture if this thread runs one here.
  bool spoil_own_capture() {
    std::lock_guard lock(mutex_);
    if (capture_ == nullptr || capturer_ != std::this_thread::get_id()) return false;
    invalidated_ = true;
    return true;
  }

 private:
  void wait_for_submitted(std::unique_lock<std::mutex>& lock) {
    const uint64_t target = submitted_;
    changed_.wait(lock, [&] { return finished_ >= target; });
  }
  void run() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [&] { return closing_ || !queue_.empty(); });
      if (queue_.empty()) return;
      Op op = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      faults().wait_while_held();
      if (int us = faults().delay_us.load(); us > 0)
        std::this_thread::sleep_for(std::chrono::microseconds(us));
      // Events are reached even when the context is dead, as with a real driver: waiting returns, with an
      // error.
      if (op.name == "event" || faults().work_may_run(op.name)) op.work();
      op = Op{};
      lock.lock();
      ++finished_;
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Op> queue_;
  uint64_t submitted_ = 0;
  uint64_t finished_ = 0;
  bool closing_ = false;
  std::unique_ptr<Graph> capture_;
  std::thread::id capturer_;
  bool invalidated_ = false;
  std::thread thread_;  // last: it uses the members above
};

}  // namespace fake_cuda
