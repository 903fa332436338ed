#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "core/batch_planner.h"
#include "core/histogram.h"
#include "runtime/batch.h"
#include "runtime/executor.h"
#include "runtime/ticket.h"

namespace searchpipe::runtime {

struct ScorerOptions {
  std::int64_t max_queued_rows = 16384;  // of requests that wait; more are refused
  std::int64_t batch_tokens = 0;  // requests are merged up to so many token places; 0: the largest bucket's
  double max_delay_s = 0.0005;    // longest wait for company while another batch runs; none if none runs
};

struct ScorerStats {
  std::uint64_t requests = 0;
  std::uint64_t batches = 0;
  std::uint64_t rows = 0;           // that were scored
  std::uint64_t real_tokens = 0;    // of those rows
  std::uint64_t padded_tokens = 0;  // places of their batches, whether tokens were in them or not
  std::uint64_t late_rows = 0;      // given up at the deadline
  std::uint64_t failed_batches = 0;
  std::int64_t queued_rows = 0;        // now
  std::int64_t batches_in_flight = 0;  // now
};

class QueueFull : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class ScorerClosed : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Scores the rows of many callers on one executor.
//
// A worker thread lets the batch planner choose which rows of which requests
// go next, cuts them by length into batches of the executor's buckets, packs
// each into a free slot and submits it; a completion thread hands rows back as
// their batches end. The worker asks the planner only once a slot is free, so
// that what arrives while the device is busy joins the next batch.
// A batch that fails ends the requests it held rows of, and nothing else.
// Any thread may call everything.
class Scorer {
 public:
  explicit Scorer(std::shared_ptr<Executor> executor, const ScorerOptions& options = {});
  ~Scorer();  // close(true)
  Scorer(const Scorer&) = delete;
  Scorer& operator=(const Scorer&) = delete;

  // Throws QueueFull, ScorerClosed, or std::invalid_argument for a row longer than every bucket.
  std::shared_ptr<Ticket> submit(std::unique_ptr<RowSource> rows, const RequestOptions& options);
  // Refuses new requests, then finishes (`drain`) or ends (kClosed) those that wait; what the device has
  // begun is always finished. Returns when both threads have ended.
  void close(bool drain);
  ScorerStats stats() const;
  // From a request's arrival to its first batch, in seconds.
  const Histogram& queue_time() const { return queue_time_; }
  const std::shared_ptr<Executor>& executor() const { return executor_; }

 private:
  void work();
  void complete();
  // With the mutex held.
  std::vector<TicketPtr> forget_ended();
  std::vector<Row> take(const PlannedBatch& planned);
  Decision decide(std::vector<TicketPtr>& late);

  int acquire_slot();
  void release_slot(int slot);
  void run_wave(std::vector<Row>& wave, const std::string& broken);
  void submit_wave(std::vector<Row>& wave);
  void fail(const Batch& batch, const std::string& error);

  std::shared_ptr<Executor> executor_;
  mutable std::mutex mutex_;
  std::condition_variable work_changed_;    // requests, free slots, closing: the worker waits
  std::condition_variable flight_changed_;  // batches in flight, worker's end: the completion thread waits
  BatchPlanner planner_;
  std::unordered_map<std::uint64_t, TicketPtr> queued_;  // what the planner knows, by its id
  std::vector<int> free_slots_;
  std::deque<Batch> in_flight_;
  std::uint64_t next_id_ = 0;
  bool closing_ = false;
  bool worker_ended_ = false;
  ScorerStats stats_;
  Histogram queue_time_{0.01};
  std::mutex close_mutex_;
  std::thread worker_;
  std::thread completer_;
};

}  // namespace searchpipe::runtime
