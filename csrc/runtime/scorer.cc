#include "runtime/scorer.h"

#include <algorithm>
#include <exception>
#include <tuple>
#include <utility>

namespace searchpipe::runtime {
namespace {

auto rank(const std::shared_ptr<Ticket>& ticket) {
  const RequestOptions& options = ticket->options();
  return std::tuple(options.priority, options.deadline.value_or(Clock::time_point::max()), ticket->sequence);
}

std::int64_t tokens_left(const Ticket& ticket) {
  const std::vector<std::int32_t>& lengths = ticket.source().lengths();
  std::int64_t tokens = 0;
  for (std::size_t row = ticket.next_row; row < lengths.size(); ++row) tokens += lengths[row];
  return tokens;
}

}  // namespace

Scorer::Scorer(std::shared_ptr<Executor> executor, const ScorerOptions& options)
    : executor_(std::move(executor)), options_(options) {
  if (options_.max_queued_rows < 1) {
    throw std::invalid_argument("max_queued_rows is " + std::to_string(options_.max_queued_rows) +
                                ", must be 1 or more");
  }
  if (options_.batch_tokens < 0) {
    throw std::invalid_argument("batch_tokens is " + std::to_string(options_.batch_tokens) +
                                ", must be 1 or more, or 0 for the largest bucket's");
  }
  if (options_.batch_tokens == 0) options_.batch_tokens = executor_->shape().buckets.back().area();
  for (int slot = executor_->slots(); slot-- > 0;) free_slots_.push_back(slot);
  worker_ = std::thread([this] { work(); });
  completer_ = std::thread([this] { complete(); });
}

Scorer::~Scorer() { close(true); }

std::shared_ptr<Ticket> Scorer::submit(std::unique_ptr<RowSource> rows, const RequestOptions& options) {
  const std::vector<std::int32_t>& lengths = rows->lengths();
  const auto count = static_cast<std::int64_t>(lengths.size());
  const std::int32_t limit = executor_->shape().max_tokens();
  for (std::size_t row = 0; row < lengths.size(); ++row) {
    if (lengths[row] > limit) {
      throw std::invalid_argument("row " + std::to_string(row) + " has " + std::to_string(lengths[row]) +
                                  " tokens, the widest bucket " + std::to_string(limit) +
                                  "; lower the packer's max_tokens or prepare a wider bucket");
    }
  }
  auto ticket = std::make_shared<Ticket>(std::move(rows), executor_->shape().output_width, options);
  std::vector<TicketPtr> ended;
  {
    std::lock_guard lock(mutex_);
    if (closing_) throw ScorerClosed("the scorer is closed");
    if (stats_.queued_rows + count > options_.max_queued_rows) ended = drop_ended(Clock::now());
    if (stats_.queued_rows + count > options_.max_queued_rows) {
      throw QueueFull(std::to_string(stats_.queued_rows) + " rows wait already, " + std::to_string(count) +
                      " more would pass the limit of " + std::to_string(options_.max_queued_rows));
    }
    ticket->sequence = next_sequence_++;
    ticket->arrived = Clock::now();
    ++stats_.requests;
    if (count > 0) {
      stats_.queued_rows += count;
      const auto at = std::upper_bound(waiting_.begin(), waiting_.end(), ticket,
                                       [](const TicketPtr& a, const TicketPtr& b) { return rank(a) < rank(b); });
      waiting_.insert(at, ticket);
    }
  }
  for (const TicketPtr& late : ended) late->settle(late->rows() - late->next_row, false);
  if (count == 0) {
    ticket->settle(0, true);
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
      dropped.swap(waiting_);
      stats_.queued_rows = 0;
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
  return stats_;
}

// Takes requests out of the queue that were ended by others, and gives up the rest of those whose deadline has
// come; the latter are returned, to be settled without the lock.
std::vector<Scorer::TicketPtr> Scorer::drop_ended(Clock::time_point now) {
  std::vector<TicketPtr> late;
  std::erase_if(waiting_, [&](const TicketPtr& ticket) {
    const bool ended = ticket->done();
    const bool expired = ticket->options().deadline && *ticket->options().deadline <= now;
    if (!ended && !expired) return false;
    const std::size_t rows = ticket->rows() - ticket->next_row;
    stats_.queued_rows -= static_cast<std::int64_t>(rows);
    if (!ended) {
      stats_.late_rows += rows;
      late.push_back(ticket);
    }
    return true;
  });
  return late;
}

void Scorer::take_rows(const TicketPtr& ticket, std::int64_t budget, std::vector<Row>& wave, Clock::time_point now) {
  const std::vector<std::int32_t>& lengths = ticket->source().lengths();
  if (ticket->next_row == 0) {
    queue_time_.record(std::max(std::chrono::duration<double>(now - ticket->arrived).count(), 0.0));
  }
  // At least one row, or a row wider than the budget would wait for ever.
  do {
    const std::size_t row = ticket->next_row++;
    wave.push_back({ticket, static_cast<std::int32_t>(row), lengths[row]});
    budget -= lengths[row];
    --stats_.queued_rows;
  } while (ticket->next_row < lengths.size() && budget >= lengths[ticket->next_row]);
}

// Chooses what runs next: the first request in rank, in pieces if it is larger than the budget, and with it
// others that fit whole. Splitting a second request would make its caller wait for two waves and gain nothing.
std::vector<Scorer::Row> Scorer::next_wave(std::unique_lock<std::mutex>& lock) {
  const Clock::time_point now = Clock::now();
  const std::vector<TicketPtr> late = drop_ended(now);
  std::vector<Row> wave;
  std::int64_t budget = options_.batch_tokens;
  std::erase_if(waiting_, [&](const TicketPtr& ticket) {
    const std::int64_t tokens = tokens_left(*ticket);
    if (!wave.empty() && tokens > budget) return false;
    take_rows(ticket, budget, wave, now);
    budget -= std::min(tokens, budget);
    return ticket->next_row == ticket->rows();
  });
  lock.unlock();
  for (const TicketPtr& ticket : late) ticket->settle(ticket->rows() - ticket->next_row, false);
  return wave;
}

void Scorer::work() {
  std::string broken;
  try {
    executor_->enter_thread();
  } catch (const std::exception& error) {
    broken = error.what();
  }
  for (;;) {
    std::unique_lock lock(mutex_);
    work_changed_.wait(lock, [this] { return !waiting_.empty() || closing_; });
    if (waiting_.empty()) break;
    work_changed_.wait(lock, [this] { return !free_slots_.empty(); });
    std::vector<Row> wave = next_wave(lock);
    std::string error = broken;
    try {
      if (error.empty()) run_wave(wave);
    } catch (const std::exception& caught) {
      error = caught.what();
    }
    if (error.empty()) continue;
    for (const Row& row : wave) row.ticket->end(TicketStatus::kFailed, error);
  }
  {
    std::lock_guard lock(mutex_);
    worker_ended_ = true;
  }
  flight_changed_.notify_all();
}

void Scorer::run_wave(std::vector<Row>& wave) {
  std::stable_sort(wave.begin(), wave.end(), [](const Row& a, const Row& b) { return a.length > b.length; });
  std::vector<std::int32_t> lengths;
  lengths.reserve(wave.size());
  for (const Row& row : wave) lengths.push_back(row.length);
  const std::vector<PlannedBatch> plan =
      plan_batches(lengths, executor_->shape().buckets, executor_->costs(), executor_->exact_shape());
  for (const PlannedBatch& planned : plan) {
    const int slot = acquire_slot();
    Batch batch = make_batch(wave, planned);
    batch.slot = slot;
    if (batch.groups.empty()) {  // all cancelled meanwhile
      release_slot(slot);
      continue;
    }
    try {
      const std::vector<DeviceCopy> copies = pack(batch);
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

Scorer::Batch Scorer::make_batch(const std::vector<Row>& wave, const PlannedBatch& planned) const {
  Batch batch;
  batch.bucket = planned.bucket;
  batch.shape = planned.shape;
  std::int32_t longest = 0;
  for (std::size_t i = planned.begin; i < planned.end; ++i) {
    const Row& row = wave[i];
    if (row.ticket->done()) continue;
    auto group = std::find_if(batch.groups.begin(), batch.groups.end(),
                              [&](const Group& it) { return it.ticket == row.ticket; });
    if (group == batch.groups.end()) group = batch.groups.insert(group, Group{row.ticket, {}, {}, 0});
    group->rows.push_back(row.row);
    ++batch.rows;
    batch.real_tokens += static_cast<std::uint64_t>(row.length);
    longest = std::max(longest, row.length);
  }
  if (executor_->exact_shape()) batch.shape = {static_cast<std::int32_t>(batch.rows), longest};
  return batch;
}

std::vector<DeviceCopy> Scorer::pack(Batch& batch) {
  const SlotView view = executor_->view(batch.slot, batch.shape);
  const RowMemory memory{batch.shape.tokens, view.ids, view.mask, view.types};
  const std::size_t row_bytes = static_cast<std::size_t>(executor_->shape().output_width) * sizeof(float);
  std::vector<DeviceCopy> copies;
  std::size_t first = 0;
  for (Group& group : batch.groups) {
    group.first = first;
    group.order = group.ticket->source().write(group.rows, memory.from(first));
    if (const std::uint64_t target = group.ticket->options().device_output; target != 0) {
      for (std::size_t i = 0; i < group.order.size(); ++i) {
        const auto row = static_cast<std::size_t>(group.rows[static_cast<std::size_t>(group.order[i])]);
        copies.push_back({static_cast<std::int32_t>(first + i), target + row * row_bytes});
      }
    }
    first += group.rows.size();
  }
  write_filler_rows(static_cast<std::size_t>(batch.shape.rows) - first, memory.from(first));
  return copies;
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
    std::string error = broken;
    try {
      if (error.empty()) executor_->wait(batch.slot);
    } catch (const std::exception& caught) {
      error = caught.what();
    }
    if (error.empty()) scatter(batch);
    {
      std::lock_guard lock(mutex_);
      --stats_.batches_in_flight;
      if (error.empty()) {
        ++stats_.batches;
        stats_.rows += batch.rows;
        stats_.real_tokens += batch.real_tokens;
        stats_.padded_tokens += static_cast<std::uint64_t>(batch.shape.area());
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

void Scorer::scatter(const Batch& batch) {
  const SlotView view = executor_->view(batch.slot, batch.shape);
  const auto width = static_cast<std::size_t>(executor_->shape().output_width);
  for (const Group& group : batch.groups) {
    for (std::size_t i = 0; i < group.order.size(); ++i) {
      group.ticket->store(group.rows[static_cast<std::size_t>(group.order[i])],
                          view.output + (group.first + i) * width);
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
