#include "runtime/scorer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

namespace searchpipe::runtime {
namespace {

double seconds(Clock::time_point at) { return std::chrono::duration<double>(at.time_since_epoch()).count(); }

double deadline_of(const RequestOptions& options) {
  return options.deadline ? seconds(*options.deadline) : std::numeric_limits<double>::infinity();
}

BatchLimits make_limits(const Executor& executor, const ScorerOptions& options) {
  BatchLimits limits;
  const EngineShape& shape = executor.shape();
  limits.packed = shape.packed();
  limits.max_rows = shape.max_rows();
  limits.token_budget = options.batch_tokens;
  if (limits.token_budget == 0) limits.token_budget = shape.places(shape.buckets.back());
  // A row must fit, however small the budget is.
  limits.token_budget = std::max<std::int64_t>(limits.token_budget, shape.longest_row);
  limits.max_delay_s = options.max_delay_s;
  limits.max_queued_rows = options.max_queued_rows;
  return limits;
}

}  // namespace

Scorer::Scorer(std::shared_ptr<Executor> executor, const ScorerOptions& options)
    : executor_(std::move(executor)),
      planner_(make_limits(*executor_, options), fit_cost(executor_->shape(), executor_->costs())) {
  for (int slot = executor_->slots(); slot-- > 0;) free_slots_.push_back(slot);
  worker_ = std::thread([this] { work(); });
  completer_ = std::thread([this] { complete(); });
}

Scorer::~Scorer() { close(true); }

TicketPtr Scorer::prepare(std::unique_ptr<RowSource> rows, const RequestOptions& options) const {
  const std::vector<std::int32_t>& lengths = rows->lengths();
  const std::int32_t limit = executor_->shape().longest_row;
  for (std::size_t row = 0; row < lengths.size(); ++row) {
    if (lengths[row] > limit) {
      throw std::invalid_argument("row " + std::to_string(row) + " has " + std::to_string(lengths[row]) +
                                  " tokens, the engine takes " + std::to_string(limit) +
                                  "; lower the packer's max_tokens or prepare a wider bucket");
    }
  }
  auto ticket = std::make_shared<Ticket>(std::move(rows), executor_->shape().output_width, options);
  ticket->scorer = this;
  return ticket;
}

TicketPtr Scorer::submit(std::unique_ptr<RowSource> rows, const RequestOptions& options) {
  TicketPtr ticket = prepare(std::move(rows), options);
  submit(ticket);
  return ticket;
}

void Scorer::submit(const TicketPtr& ticket) { enter(ticket, false); }

bool Scorer::run(const TicketPtr& ticket, double seconds, const std::function<void()>& meanwhile,
                 const std::function<void()>& before_end) {
  const Clock::time_point until = after_seconds(seconds);
  LoneFlight flight = begin(ticket);
  see_through(flight, until, meanwhile, before_end);
  return ticket->wait_until(until);
}

LoneFlight Scorer::begin(const TicketPtr& ticket) {
  Wave chosen = enter(ticket, executor_->watched());
  return {*this, ticket, chosen.rows.empty() ? std::vector<Batch>() : start_alone(std::move(chosen))};
}

bool Scorer::finish(LoneFlight& flight, double seconds, const std::function<void()>& meanwhile,
                    const std::function<void()>& before_end) {
  const Clock::time_point until = after_seconds(seconds);
  see_through(flight, until, meanwhile, before_end);
  return flight.ticket_->wait_until(until);
}

Wave Scorer::enter(const TicketPtr& ticket, bool may_begin) {
  if (ticket->scorer != this) throw std::invalid_argument("the ticket was prepared by another scorer");
  const std::vector<std::int32_t>& lengths = ticket->source().lengths();
  const auto count = static_cast<std::int64_t>(lengths.size());
  std::vector<std::int32_t> descending;
  descending.reserve(lengths.size());
  for (const std::int32_t row : ticket->longest_first())
    descending.push_back(lengths[static_cast<std::size_t>(row)]);
  std::vector<TicketPtr> expired;
  Wave chosen;
  bool late = false;
  {
    std::lock_guard lock(mutex_);
    if (ticket->submitted || ticket->done()) return {};
    if (closing_) throw ScorerClosed("the scorer is closed");
    ticket->arrived = Clock::now();
    const RequestOptions& options = ticket->options();
    Admission admission;
    if (count > 0) {
      const auto add = [&] {
        return planner_.add(next_id_, descending, seconds(ticket->arrived), deadline_of(options),
                            options.priority);
      };
      admission = add();
      if (!admission.accepted() && !forget_ended().empty()) admission = add();
    }
    late = admission.refusal == Refusal::kDeadlinePassed;
    if (!admission.accepted() && !late) throw QueueFull(admission.reason);
    ticket->submitted = true;
    ++stats_.requests;
    if (late) stats_.late_rows += static_cast<std::uint64_t>(count);
    if (count > 0 && !late) queued_.emplace(next_id_++, ticket);
    // Alone: nothing waits, nothing runs and nobody is about to change that.
    if (may_begin && queued_.size() == 1 && stats_.batches_in_flight == 0 && !submitting_ && !left_) {
      const Decision decision = decide(expired);
      if (decision.batch) chosen = take(*decision.batch);
      submitting_ = !chosen.rows.empty();
    }
  }
  if (count == 0 || late) ticket->settle(static_cast<std::size_t>(count), false);
  for (const TicketPtr& it : expired) it->settle(it->rows() - it->batched, false);
  if (count > 0 && !late && chosen.rows.empty()) work_changed_.notify_one();
  return chosen;
}

void Scorer::close(bool drain) {
  std::vector<TicketPtr> dropped;
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
    if (!drain) {
      for (auto& [id, ticket] : queued_) {
        planner_.cancel(id);
        dropped.push_back(std::move(ticket));
      }
      queued_.clear();
    }
  }
  for (const TicketPtr& ticket : dropped) {
    ticket->end(TicketStatus::kClosed, "the scorer was closed before this request was scored");
  }
  work_changed_.notify_all();
  std::lock_guard lock(close_mutex_);
  if (worker_.joinable()) worker_.join();
  if (completer_.joinable()) completer_.join();
}

ScorerStats Scorer::stats() const {
  std::lock_guard lock(mutex_);
  ScorerStats stats = stats_;
  stats.queued_rows = planner_.queued_rows();
  return stats;
}

// Takes requests out of the queue that were cancelled, or failed with another batch; returns them.
std::vector<TicketPtr> Scorer::forget_ended() {
  std::vector<TicketPtr> ended;
  std::erase_if(queued_, [&](const auto& entry) {
    if (!entry.second->done()) return false;
    planner_.cancel(entry.first);
    ended.push_back(entry.second);
    return true;
  });
  return ended;
}

// What runs next, if anything; `late` receives requests whose deadline came first.
Decision Scorer::decide(std::vector<TicketPtr>& late) {
  const double now = seconds(Clock::now());
  forget_ended();
  for (const std::uint64_t id : planner_.expire(now)) {
    const auto found = queued_.find(id);
    stats_.late_rows += found->second->rows() - found->second->batched;
    late.push_back(std::move(found->second));
    queued_.erase(found);
  }
  if (free_slots_.empty()) return {};
  // An idle engine has nothing to wait for.
  return planner_.next_batch(now, closing_ || stats_.batches_in_flight == 0);
}

Wave Scorer::take(const PlannedBatch& planned) {
  const Clock::time_point now = Clock::now();
  Wave wave;
  wave.requests.reserve(planned.parts.size());
  wave.rows.reserve(static_cast<std::size_t>(planned.rows));
  for (const BatchPart& part : planned.parts) {
    const auto found = queued_.find(part.request);
    const TicketPtr& ticket = wave.requests.emplace_back(found->second);
    const auto request = static_cast<std::uint32_t>(wave.requests.size() - 1);
    const std::vector<std::int32_t>& order = ticket->longest_first();
    const std::vector<std::int32_t>& lengths = ticket->source().lengths();
    if (part.first_row == 0) {
      queue_time_.record(std::max(std::chrono::duration<double>(now - ticket->arrived).count(), 0.0));
    }
    for (std::int64_t i = part.first_row; i < part.first_row + part.rows; ++i) {
      const std::int32_t row = order[static_cast<std::size_t>(i)];
      wave.rows.push_back({request, row, lengths[static_cast<std::size_t>(row)]});
    }
    ticket->batched += static_cast<std::size_t>(part.rows);
    if (ticket->batched == ticket->rows()) queued_.erase(found);
  }
  return wave;
}

bool Scorer::worker_is_wanted() const {
  return closing_ || left_ || slot_wanted_ || planner_.queued_requests() > 0;
}

}  // namespace searchpipe::runtime
