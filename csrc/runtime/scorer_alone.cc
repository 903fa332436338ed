#include <algorithm>
#include <exception>
#include <iterator>
#include <string>
#include <utility>

#include "core/relax.h"
#include "cuda/nvtx.h"
#include "runtime/scorer.h"

// A lone caller's way: no other thread takes part unless something goes wrong.

namespace searchpipe::runtime {
namespace {

// What a thread has begun and not yet watched, while it does something else.
struct Launched {
  Executor& executor;
  const std::vector<Batch>& batches;
  const TicketPtr& ticket;
};

// What is done before the end may begin so much earlier at most, whatever it took: what it warms cools again.
constexpr std::chrono::microseconds kLongestBefore{1000};
// It is to be over so long before the end, and a quarter of what it takes: what it warms cools within
// fractions of a millisecond, where other machines share the core's caches.
constexpr std::chrono::microseconds kBeforeMargin{40};

thread_local const Launched* launched_here = nullptr;

class Announced {
 public:
  explicit Announced(const Launched& launched) : before_(launched_here) { launched_here = &launched; }
  ~Announced() { launched_here = before_; }
  Announced(const Announced&) = delete;
  Announced& operator=(const Announced&) = delete;

 private:
  const Launched* before_;  // `meanwhile` may run another request
};

}  // namespace

TicketPtr Scorer::follow_launched(std::uint64_t device_output, std::uintptr_t stream) {
  const Launched* launched = launched_here;
  if (launched == nullptr || device_output == 0) return nullptr;
  const TicketPtr& ticket = launched->ticket;
  if (ticket->options().device_output != device_output || ticket->done()) return nullptr;
  std::size_t begun = 0;
  for (const Batch& batch : launched->batches) begun += batch.rows;
  if (begun == 0 || begun != ticket->rows()) return nullptr;  // the queue, or the worker, has the rest
  for (const Batch& batch : launched->batches) {
    if (!launched->executor.follow(batch.slot, stream)) return nullptr;
  }
  return ticket;
}

LoneFlight::LoneFlight(Scorer& scorer, TicketPtr ticket, std::vector<Batch> own)
    : scorer_(scorer), ticket_(std::move(ticket)), own_(std::move(own)) {}

LoneFlight::~LoneFlight() {
  if (!own_.empty()) scorer_.leave(own_, 0);
}

std::vector<Batch> Scorer::start_alone(Wave chosen) {
  std::optional<EnteredThread> entered;
  std::vector<Batch> own;
  CutWave rest;
  std::string error;
  try {
    static_cast<Wave&>(rest) = std::move(chosen);
    entered.emplace(*executor_);
    cut(rest);
    own.reserve(rest.cuts.size());
    while (rest.next < rest.cuts.size()) {
      const std::optional<int> slot = free_slot();
      if (!slot) break;
      if (std::optional<Batch> batch = start(rest, *slot)) {
        batch->lone = true;
        own.push_back(std::move(*batch));
      }
    }
  } catch (const std::exception& caught) {
    error = caught.what();
  }
  bool wanted = false;
  {
    std::lock_guard lock(mutex_);
    submitting_ = false;
    stats_.batches_in_flight += static_cast<std::int64_t>(own.size());
    lone_ += own.size();
    if (error.empty() && rest.next < rest.cuts.size()) left_ = std::move(rest);
    wanted = worker_is_wanted();
  }
  if (wanted) work_changed_.notify_one();
  if (!error.empty()) {
    for (const TicketPtr& request : rest.requests) request->end(TicketStatus::kFailed, error);
  }
  return own;
}

void Scorer::see_through(LoneFlight& flight, Clock::time_point until, const std::function<void()>& meanwhile,
                         const std::function<void()>& before_end) {
  std::optional<EnteredThread> entered;
  if (!flight.own_.empty()) {
    try {
      entered.emplace(*executor_);
    } catch (const std::exception&) {  // then every call enters for itself
    }
  }
  if (meanwhile) {
    const Launched launched{*executor_, flight.own_, flight.ticket_};
    const Announced announced(launched);
    meanwhile();
  }
  if (!flight.own_.empty()) watch_alone(flight.own_, *flight.ticket_, until, before_end);
}

void Scorer::watch_alone(std::vector<Batch>& own, const Ticket& ticket, Clock::time_point until,
                         const std::function<void()>& before_end) {
  std::size_t seen = 0;
  std::size_t begun = 0;
  for (const Batch& batch : own) begun += batch.rows;
  for (; seen < own.size(); ++seen) {
    const Batch& batch = own[seen];
    const nvtx::Range range([&] { return "watch slot " + std::to_string(batch.slot); });
    std::string error;
    try {
      const bool last = seen + 1 == own.size() && begun == ticket.rows();
      if (!watch(batch, ticket, until, last && before_end ? &before_end : nullptr)) break;
    } catch (const std::exception& caught) {
      error = caught.what();
    }
    conclude(batch, std::move(error));
  }
  leave(own, seen);
}

void Scorer::leave(std::vector<Batch>& own, std::size_t seen) {
  bool wanted = false;
  {
    std::lock_guard lock(mutex_);
    lone_ -= own.size();
    const auto left = own.begin() + static_cast<std::ptrdiff_t>(seen);
    in_flight_.insert(in_flight_.begin(), std::make_move_iterator(left), std::make_move_iterator(own.end()));
    own.clear();
    wanted = !in_flight_.empty() || worker_ended_;
  }
  if (wanted) flight_changed_.notify_one();
}

// True once the batch has ended; false if the caller has something else to do first, or the batch is overdue.
bool Scorer::watch(const Batch& batch, const Ticket& ticket, Clock::time_point until,
                   const std::function<void()>* before_end) {
  const Watch when = executor_->watch(batch.slot);
  const bool called = before_end != nullptr && when.expected < until &&
                      call_before(when.expected, batch, ticket, *before_end);
  // On the ticket: who is cancelled need not sleep any more. Nor who has just been busy, so as to stay warm.
  if (!called && when.from > Clock::now() && ticket.wait_until(std::min(when.from, until))) return false;
  while (!executor_->ended(batch.slot)) {
    if (ticket.done() || Clock::now() >= std::min(when.to, until)) return false;
    relax();
  }
  return true;
}

// Sleeps until `before_end` should begin so as to be over shortly before `end`, and calls it; false if it
// did not.
bool Scorer::call_before(Clock::time_point end, const Batch& batch, const Ticket& ticket,
                         const std::function<void()>& before_end) {
  const Clock::duration takes = before_end_takes_.load();
  const Clock::duration ahead = takes + takes / 4 + kBeforeMargin;
  if (end <= Clock::now() || end - Clock::now() <= ahead) return false;
  const Clock::time_point begin = end - ahead;
  if (ticket.wait_until(begin) || Clock::now() >= end || executor_->over(batch.slot) || !alone())
    return false;
  before_end();
  // Slowly, and of one that took very long not all: another thread may have had the core.
  const Clock::duration took = std::min<Clock::duration>(Clock::now() - begin, kLongestBefore);
  before_end_takes_ = takes + (took - takes) / 8;
  return true;
}

// Whether the one batch that this thread still watches is all there is.
bool Scorer::alone() const {
  std::lock_guard lock(mutex_);
  return queued_.empty() && !left_ && !submitting_ && !closing_ && stats_.batches_in_flight == 1;
}

}  // namespace searchpipe::runtime
