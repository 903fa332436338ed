#include "runtime/scorer.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <limits>
#include <string>
#include <utility>

#include "cuda/nvtx.h"

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

std::shared_ptr<Ticket> Scorer::submit(std::unique_ptr<RowSource> rows, const RequestOptions& options) {
  const std::vector<std::int32_t>& lengths = rows->lengths();
  const auto count = static_cast<std::int64_t>(lengths.size());
  const std::int32_t limit = executor_->shape().longest_row;
  for (std::size_t row = 0; row < lengths.size(); ++row) {
    if (lengths[row] > limit) {
      throw std::invalid_argument("row " + std::to_string(row) + " has " + std::to_string(lengths[row]) +
                                  " tokens, the engine takes " + std::to_string(limit) +
                                  "; lower the packer's max_tokens or prepare a wider bucket");
    }
  }
  auto ticket = std::make_shared<Ticket>(std::move(rows), executor_->shape().output_width, options);
  std::vector<std::int32_t> descending;
  descending.reserve(lengths.size());
  for (const std::int32_t row : ticket->longest_first())
    descending.push_back(lengths[static_cast<std::size_t>(row)]);
  bool late = false;
  {
    std::lock_guard lock(mutex_);
    if (closing_) throw ScorerClosed("the scorer is closed");
    ticket->arrived = Clock::now();
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
    ++stats_.requests;
    if (late) stats_.late_rows += static_cast<std::uint64_t>(count);
    if (count > 0 && !late) queued_.emplace(next_id_++, ticket);
  }
  if (count == 0 || late) {
    ticket->settle(static_cast<std::size_t>(count), false);
  } else {
    work_changed_.notify_all();
  }
  return ticket;
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

std::vector<Row> Scorer::take(const PlannedBatch& planned) {
  const Clock::time_point now = Clock::now();
  std::vector<Row> wave;
  wave.reserve(static_cast<std::size_t>(planned.rows));
  for (const BatchPart& part : planned.parts) {
    const auto found = queued_.find(part.request);
    const TicketPtr ticket = found->second;
    if (part.first_row == 0) {
      queue_time_.record(std::max(std::chrono::duration<double>(now - ticket->arrived).count(), 0.0));
    }
    for (std::int64_t i = part.first_row; i < part.first_row + part.rows; ++i) {
      const std::int32_t row = ticket->longest_first()[static_cast<std::size_t>(i)];
      wave.push_back({ticket, row, ticket->source().lengths()[static_cast<std::size_t>(row)]});
    }
    ticket->batched += static_cast<std::size_t>(part.rows);
    if (ticket->batched == ticket->rows()) queued_.erase(found);
  }
  return wave;
}

void Scorer::work() {
  std::string broken;
  try {
    executor_->enter_thread();
  } catch (const std::exception& error) {
    broken = error.what();
  }
  std::unique_lock lock(mutex_);
  for (;;) {
    std::vector<TicketPtr> late;
    const Decision decision = decide(late);
    if (!late.empty() || decision.batch) {
      std::vector<Row> wave;
      if (decision.batch) wave = take(*decision.batch);
      lock.unlock();
      for (const TicketPtr& ticket : late) ticket->settle(ticket->rows() - ticket->batched, false);
      if (!wave.empty()) run_wave(wave, broken);
      lock.lock();
    } else if (closing_ && planner_.queued_requests() == 0) {
      break;
    } else if (std::isfinite(decision.ask_again_at)) {
      const std::chrono::duration<double> at(decision.ask_again_at);
      work_changed_.wait_until(lock, Clock::time_point(std::chrono::duration_cast<Clock::duration>(at)));
    } else {
      work_changed_.wait(lock);
    }
  }
  worker_ended_ = true;
  lock.unlock();
  flight_changed_.notify_all();
}

void Scorer::run_wave(std::vector<Row>& wave, const std::string& broken) {
  std::string error = broken;
  try {
    if (error.empty()) submit_wave(wave);
  } catch (const std::exception& caught) {
    error = caught.what();
  }
  if (error.empty()) return;
  for (const Row& row : wave) row.ticket->end(TicketStatus::kFailed, error);
}

void Scorer::submit_wave(std::vector<Row>& wave) {
  std::stable_sort(wave.begin(), wave.end(), [](const Row& a, const Row& b) { return a.length > b.length; });
  std::vector<std::int32_t> lengths;
  lengths.reserve(wave.size());
  for (const Row& row : wave) lengths.push_back(row.length);
  const std::vector<BucketBatch> batches =
      cut_into_batches(lengths, executor_->shape(), executor_->costs(), executor_->exact_shape());
  for (const BucketBatch& cut : batches) {
    const int slot = acquire_slot();
    Batch batch = make_batch(wave, cut, executor_->exact_shape());
    batch.slot = slot;
    if (batch.groups.empty()) {  // all cancelled meanwhile
      release_slot(slot);
      continue;
    }
    const nvtx::Range range(
        [&] { return "batch " + to_string(batch.shape) + " slot " + std::to_string(slot); });
    try {
      const std::vector<DeviceCopy> copies = pack(batch, *executor_);
      executor_->submit(slot, batch.bucket, batch.shape, copies);
    } catch (const std::exception& error) {
      release_slot(slot);
      fail(batch, error.what());
      continue;
    }
    {
      std::lock_guard lock(mutex_);
      in_flight_.push_back(std::move(batch));
      ++stats_.batches_in_flight;
    }
    flight_changed_.notify_all();
  }
}

void Scorer::complete() {
  std::string broken;
  try {
    executor_->enter_thread();
  } catch (const std::exception& error) {
    broken = error.what();
  }
  for (;;) {
    Batch batch;
    {
      std::unique_lock lock(mutex_);
      flight_changed_.wait(lock, [this] { return !in_flight_.empty() || worker_ended_; });
      if (in_flight_.empty()) return;
      batch = std::move(in_flight_.front());
      in_flight_.pop_front();
    }
    const nvtx::Range range([&] { return "wait slot " + std::to_string(batch.slot); });
    std::string error = broken;
    try {
      if (error.empty()) executor_->wait(batch.slot);
    } catch (const std::exception& caught) {
      error = caught.what();
    }
    if (error.empty()) scatter(batch, *executor_);
    {
      std::lock_guard lock(mutex_);
      --stats_.batches_in_flight;
      if (error.empty()) {
        ++stats_.batches;
        stats_.rows += batch.rows;
        stats_.real_tokens += batch.real_tokens;
        stats_.padded_tokens += static_cast<std::uint64_t>(executor_->shape().places(batch.shape));
      }
    }
    // The slot goes back before callers are told: what they do then (Python callbacks) may take a while.
    release_slot(batch.slot);
    if (!error.empty()) {
      fail(batch, error);
    } else {
      for (const Group& group : batch.groups) group.ticket->settle(group.rows.size(), true);
    }
  }
}

void Scorer::fail(const Batch& batch, const std::string& error) {
  {
    std::lock_guard lock(mutex_);
    ++stats_.failed_batches;
  }
  for (const Group& group : batch.groups) group.ticket->end(TicketStatus::kFailed, error);
}

int Scorer::acquire_slot() {
  std::unique_lock lock(mutex_);
  work_changed_.wait(lock, [this] { return !free_slots_.empty(); });
  const int slot = free_slots_.back();
  free_slots_.pop_back();
  return slot;
}

void Scorer::release_slot(int slot) {
  {
    std::lock_guard lock(mutex_);
    free_slots_.push_back(slot);
  }
  work_changed_.notify_all();
}

}  // namespace searchpipe::runtime
