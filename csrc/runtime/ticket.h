#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/clock.h"
#include "runtime/row_source.h"

namespace searchpipe::runtime {

enum class TicketStatus { kPending, kDone, kFailed, kCancelled, kClosed };

struct RequestOptions {
  std::optional<Clock::time_point> deadline;  // rows not started by then are given up
  std::int32_t priority = 0;                  // higher goes first
  std::uint64_t device_output = 0;  // device memory of rows x output_width float32 to copy rows to, or 0
};

// One request's place in the queue and, later, its scores. Any thread may
// call everything public.
class Ticket {
 public:
  Ticket(std::unique_ptr<RowSource> rows, std::int32_t output_width, const RequestOptions& options);

  std::size_t rows() const { return source_->lengths().size(); }
  std::int32_t output_width() const { return output_width_; }
  TicketStatus status() const { return status_.load(std::memory_order_acquire); }
  bool done() const { return status() != TicketStatus::kPending; }
  // False if still pending after `seconds`; without it waits for ever.
  bool wait(std::optional<double> seconds) const;
  bool wait_until(Clock::time_point until) const;
  // True if it was still pending. What a device has begun runs on, for nobody.
  bool cancel();
  // Called once, without a lock held, by the thread that ends the request; at once if it has ended.
  void on_done(std::function<void()> callback);
  // After kDone: [rows, output_width], NaN where the deadline came first.
  const std::vector<float>& scores() const { return scores_; }
  std::size_t scored() const;
  // Whether they are kDone and these, bit for bit.
  bool holds(std::span<const float> values) const;
  std::string error() const;

  // The scorer's side.
  const RowSource& source() const { return *source_; }
  const RequestOptions& options() const { return options_; }
  void store(std::int32_t row, const float* values);  // before the settle() that counts the row
  void settle(std::size_t count, bool scored);
  void end(TicketStatus status, std::string error);

  // Rows by length, longest first: the order in which they are batched.
  const std::vector<std::int32_t>& longest_first() const { return longest_first_; }

  const void* scorer = nullptr;  // that prepared it
  // Guarded by the scorer's mutex.
  bool submitted = false;
  std::size_t batched = 0;  // of longest_first()
  Clock::time_point arrived;

 private:
  bool finish(TicketStatus status, std::string error);

  std::unique_ptr<RowSource> source_;
  std::int32_t output_width_;
  RequestOptions options_;
  std::vector<std::int32_t> longest_first_;
  std::vector<float> scores_;
  mutable std::mutex mutex_;
  mutable std::condition_variable ended_;
  std::atomic<TicketStatus> status_ = TicketStatus::kPending;  // written with the mutex held
  std::string error_;
  std::size_t remaining_;
  std::size_t scored_ = 0;
  std::vector<std::function<void()>> callbacks_;
};

using TicketPtr = std::shared_ptr<Ticket>;

}  // namespace searchpipe::runtime
