#include <algorithm>
#include <cmath>
#include <exception>
#include <string>
#include <utility>

#include "cuda/nvtx.h"
#include "runtime/scorer.h"

// The scorer's worker and completion thread.

namespace searchpipe::runtime {

void Scorer::work() {
  std::string broken;
  std::optional<EnteredThread> entered;
  try {
    entered.emplace(*executor_);
  } catch (const std::exception& error) {
    broken = error.what();
  }
  std::unique_lock lock(mutex_);
  for (;;) {
    if (submitting_) {  // a caller
      work_changed_.wait(lock);
      continue;
    }
    std::vector<TicketPtr> late;
    CutWave wave;
    Decision decision;
    if (left_) {
      wave = std::move(*left_);
      left_.reset();
    } else {
      decision = decide(late);
      if (decision.batch) static_cast<Wave&>(wave) = take(*decision.batch);
    }
    if (!late.empty() || !wave.rows.empty()) {
      submitting_ = true;
      lock.unlock();
      for (const TicketPtr& ticket : late) ticket->settle(ticket->rows() - ticket->batched, false);
      start_all(std::move(wave), broken);
      lock.lock();
      submitting_ = false;
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

void Scorer::start_all(CutWave wave, const std::string& broken) {
  std::string error = broken;
  try {
    if (error.empty()) {
      if (wave.cuts.empty()) cut(wave);
      while (wave.next < wave.cuts.size()) {
        std::optional<Batch> batch = start(wave, acquire_slot());
        if (!batch) continue;
        {
          std::lock_guard lock(mutex_);
          in_flight_.push_back(std::move(*batch));
          ++stats_.batches_in_flight;
        }
        flight_changed_.notify_one();
      }
    }
  } catch (const std::exception& caught) {
    error = caught.what();
  }
  if (error.empty()) return;
  for (const TicketPtr& request : wave.requests) request->end(TicketStatus::kFailed, error);
}

void Scorer::cut(CutWave& wave) const {
  const auto longer = [](const Row& a, const Row& b) { return a.length > b.length; };
  // Those of one request are sorted already.
  if (!std::is_sorted(wave.rows.begin(), wave.rows.end(), longer)) {
    std::stable_sort(wave.rows.begin(), wave.rows.end(), longer);
  }
  std::vector<std::int32_t> lengths;
  lengths.reserve(wave.rows.size());
  for (const Row& row : wave.rows) lengths.push_back(row.length);
  wave.cuts = cut_into_batches(lengths, executor_->shape(), executor_->costs(), executor_->exact_shape());
}

// Packs and submits the wave's next batch; none if nobody wants it any more, or it failed.
std::optional<Batch> Scorer::start(CutWave& wave, int slot) {
  Batch batch = make_batch(wave, wave.cuts[wave.next++], executor_->exact_shape());
  batch.slot = slot;
  if (batch.groups.empty()) {  // all cancelled meanwhile
    release_slot(slot);
    return std::nullopt;
  }
  const nvtx::Range range(
      [&] { return "batch " + to_string(batch.shape) + " slot " + std::to_string(slot); });
  try {
    const std::vector<DeviceCopy> copies = pack(batch, *executor_);
    executor_->submit(slot, batch.bucket, batch.shape, copies);
  } catch (const std::exception& error) {
    release_slot(slot);
    {
      std::lock_guard lock(mutex_);
      ++stats_.failed_batches;
    }
    for (const Group& group : batch.groups) group.ticket->end(TicketStatus::kFailed, error.what());
    return std::nullopt;
  }
  return batch;
}

void Scorer::complete() {
  std::string broken;
  std::optional<EnteredThread> entered;
  try {
    entered.emplace(*executor_);
  } catch (const std::exception& error) {
    broken = error.what();
  }
  for (;;) {
    Batch batch;
    {
      std::unique_lock lock(mutex_);
      flight_changed_.wait(lock, [this] { return !in_flight_.empty() || (worker_ended_ && lone_ == 0); });
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
    conclude(batch, std::move(error));
  }
}

// Hands the rows of a batch that has ended back, or tells what went wrong.
void Scorer::conclude(const Batch& batch, std::string error) {
  try {
    if (error.empty()) scatter(batch, *executor_);
  } catch (const std::exception& caught) {
    error = caught.what();
  }
  bool wanted = false;
  {
    std::lock_guard lock(mutex_);
    --stats_.batches_in_flight;
    if (error.empty()) {
      ++stats_.batches;
      if (batch.lone) ++stats_.lone_batches;
      stats_.rows += batch.rows;
      stats_.real_tokens += batch.real_tokens;
      stats_.padded_tokens += static_cast<std::uint64_t>(executor_->shape().places(batch.shape));
    } else {
      ++stats_.failed_batches;
    }
    // The slot goes back before callers are told: what they do then (Python callbacks) may take a while.
    free_slots_.push_back(batch.slot);
    wanted = worker_is_wanted();
  }
  if (wanted) work_changed_.notify_one();
  for (const Group& group : batch.groups) {
    if (error.empty()) {
      group.ticket->settle(group.rows.size(), true);
    } else {
      group.ticket->end(TicketStatus::kFailed, error);
    }
  }
}

std::optional<int> Scorer::free_slot() {
  std::lock_guard lock(mutex_);
  if (free_slots_.empty()) return std::nullopt;
  const int slot = free_slots_.back();
  free_slots_.pop_back();
  return slot;
}

int Scorer::acquire_slot() {
  std::unique_lock lock(mutex_);
  slot_wanted_ = true;
  work_changed_.wait(lock, [this] { return !free_slots_.empty(); });
  slot_wanted_ = false;
  const int slot = free_slots_.back();
  free_slots_.pop_back();
  return slot;
}

void Scorer::release_slot(int slot) {
  bool wanted = false;
  {
    std::lock_guard lock(mutex_);
    free_slots_.push_back(slot);
    wanted = worker_is_wanted();
  }
  if (wanted) work_changed_.notify_one();
}

}  // namespace searchpipe::runtime
