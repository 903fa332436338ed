#include "runtime/ticket.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/longest_first.h"

namespace searchpipe::runtime {

Ticket::Ticket(std::unique_ptr<RowSource> rows, std::int32_t output_width, const RequestOptions& options)
    : source_(std::move(rows)),
      output_width_(output_width),
      options_(options),
      longest_first_(searchpipe::longest_first(source_->lengths())),
      scores_(source_->lengths().size() * static_cast<std::size_t>(output_width),
              std::numeric_limits<float>::quiet_NaN()),
      remaining_(source_->lengths().size()) {}

bool Ticket::wait(std::optional<double> seconds) const {
  if (seconds) return wait_until(after_seconds(*seconds));
  std::unique_lock lock(mutex_);
  ended_.wait(lock, [this] { return done(); });
  return true;
}

bool Ticket::wait_until(Clock::time_point until) const {
  if (done()) return true;
  std::unique_lock lock(mutex_);
  return ended_.wait_until(lock, until, [this] { return done(); });
}

bool Ticket::cancel() { return finish(TicketStatus::kCancelled, "cancelled by its caller"); }

void Ticket::on_done(std::function<void()> callback) {
  {
    std::lock_guard lock(mutex_);
    if (!done()) {
      callbacks_.push_back(std::move(callback));
      return;
    }
  }
  callback();
}

std::size_t Ticket::scored() const {
  std::lock_guard lock(mutex_);
  return scored_;
}

bool Ticket::holds(std::span<const float> values) const {
  return status() == TicketStatus::kDone && values.size() == scores_.size() &&
         std::memcmp(values.data(), scores_.data(), values.size_bytes()) == 0;
}

std::string Ticket::error() const {
  std::lock_guard lock(mutex_);
  return error_;
}

void Ticket::store(std::int32_t row, const float* values) {
  const auto width = static_cast<std::size_t>(output_width_);
  std::copy_n(values, width,
              scores_.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(row) * width));
}

void Ticket::settle(std::size_t count, bool scored) {
  {
    std::lock_guard lock(mutex_);
    remaining_ -= count;
    if (scored) scored_ += count;
    if (remaining_ > 0) return;
  }
  finish(TicketStatus::kDone, "");
}

void Ticket::end(TicketStatus status, std::string error) { finish(status, std::move(error)); }

bool Ticket::finish(TicketStatus status, std::string error) {
  std::vector<std::function<void()>> callbacks;
  {
    std::lock_guard lock(mutex_);
    if (done()) return false;
    error_ = std::move(error);
    status_.store(status, std::memory_order_release);
    callbacks.swap(callbacks_);
  }
  ended_.notify_all();
  for (const std::function<void()>& callback : callbacks) callback();
  return true;
}

}  // namespace searchpipe::runtime
