#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
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
  std::uint64_t lone_batches = 0;      // of `batches`: begun by the thread that asked
};

class QueueFull : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class ScorerClosed : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class Scorer;

// A request that is on its way, and those of its batches which the thread that asked has begun and will see
// through (Scorer::finish). What is dropped before goes to the completion thread, so that nothing is lost.
// For one thread at a time.
class LoneFlight {
 public:
  LoneFlight(Scorer& scorer, TicketPtr ticket, std::vector<Batch> own);
  LoneFlight(LoneFlight&& other) noexcept = default;
  LoneFlight& operator=(LoneFlight&&) = delete;
  ~LoneFlight();

 private:
  friend class Scorer;

  Scorer& scorer_;
  TicketPtr ticket_;
  std::vector<Batch> own_;  // empty once seen through, and if others have begun them, or will
};

// Scores the rows of many callers on one executor.
//
// A worker thread lets the batch planner choose which rows of which requests
// go next, cuts them by length into batches of the executor's buckets, packs
// each into a free slot and submits it; a completion thread hands rows back as
// their batches end. The worker asks the planner only once a slot is free, so
// that what arrives while the device is busy joins the next batch.
//
// A caller that waits in run() and finds nobody else needs neither thread, nor
// to be woken: it packs, submits and watches its batches itself, if the
// executor's may be watched. What it would have to wait for (a free slot) it
// leaves to the worker; what it leaves behind, since its time is up, it was
// cancelled or the batch is overdue, to the completion thread.
//
// A batch that fails ends the requests it held rows of, and nothing else.
// Any thread may call everything.
class Scorer {
 public:
  explicit Scorer(std::shared_ptr<Executor> executor, const ScorerOptions& options = {});
  ~Scorer();  // close(true)
  Scorer(const Scorer&) = delete;
  Scorer& operator=(const Scorer&) = delete;

  // A request for submit() or run(). Throws std::invalid_argument for a row longer than every bucket.
  TicketPtr prepare(std::unique_ptr<RowSource> rows, const RequestOptions& options) const;
  // Queues a request of this scorer's prepare(), unless it was queued or has ended. Throws QueueFull,
  // ScorerClosed, or std::invalid_argument for a ticket of another scorer.
  void submit(const TicketPtr& ticket);
  TicketPtr submit(std::unique_ptr<RowSource> rows, const RequestOptions& options);
  // submit() and then Ticket::wait(seconds), and faster than both for a lone caller. Between the two
  // `meanwhile` is called, on this thread and without a lock held; it must not throw.
  // So is `before_end`, once the end of the request is near: just early enough to be over by then, as it has
  // taken before, so that what the caller needs next is in the caches. Only for a lone caller whose last
  // batch this thread watches: not if anybody else waits or runs here, and not if there is no time for it,
  // the batch has ended already or `seconds` are over before.
  bool run(const TicketPtr& ticket, double seconds, const std::function<void()>& meanwhile = nullptr,
           const std::function<void()>& before_end = nullptr);
  // run() in two halves, for a caller that has something else to do between: begin() puts the request on its
  // way, finish() does the rest. The scorer must outlive what begin() returns.
  LoneFlight begin(const TicketPtr& ticket);
  bool finish(LoneFlight& flight, double seconds, const std::function<void()>& meanwhile = nullptr,
              const std::function<void()>& before_end = nullptr);
  // Inside `meanwhile` of run(), on its thread: lets later work on `stream` (a CUstream of the same device)
  // wait until the rows of the request are in device memory at `device_output`, and returns its ticket. Null,
  // with nothing done, unless this thread itself has begun all of a request's rows with that address, on a
  // device. Throws what the driver says.
  static TicketPtr follow_launched(std::uint64_t device_output, std::uintptr_t stream);
  // Refuses new requests, then finishes (`drain`) or ends (kClosed) those that wait; what the device has
  // begun is always finished. Returns when both threads have ended, and no caller has a batch any more.
  void close(bool drain);
  ScorerStats stats() const;
  // From a request's arrival to its first batch, in seconds.
  const Histogram& queue_time() const { return queue_time_; }
  const std::shared_ptr<Executor>& executor() const { return executor_; }

 private:
  friend class LoneFlight;

  // A wave and the batches that it is cut into.
  struct CutWave : Wave {
    std::vector<BucketBatch> cuts;
    std::size_t next = 0;  // of cuts
  };

  // Queues the request; returns rows that the caller must begin, being the submitter now.
  Wave enter(const TicketPtr& ticket, bool may_begin);

  void work();
  // With the mutex held.
  std::vector<TicketPtr> forget_ended();
  Wave take(const PlannedBatch& planned);
  Decision decide(std::vector<TicketPtr>& late);
  bool worker_is_wanted() const;

  // The submitter's: the worker, or a caller that found it idle.
  void cut(CutWave& wave) const;
  std::optional<Batch> start(CutWave& wave, int slot);
  void start_all(CutWave wave, const std::string& broken);
  std::optional<int> free_slot();
  int acquire_slot();
  void release_slot(int slot);

  // A caller's own batches.
  std::vector<Batch> start_alone(Wave chosen);
  void see_through(LoneFlight& flight, Clock::time_point until, const std::function<void()>& meanwhile,
                   const std::function<void()>& before_end);
  void watch_alone(std::vector<Batch>& own, const Ticket& ticket, Clock::time_point until,
                   const std::function<void()>& before_end);
  // Leaves the batches from `seen` on to the completion thread.
  void leave(std::vector<Batch>& own, std::size_t seen);
  bool watch(const Batch& batch, const Ticket& ticket, Clock::time_point until,
             const std::function<void()>* before_end);
  bool call_before(Clock::time_point end, const Batch& batch, const Ticket& ticket,
                   const std::function<void()>& before_end);
  bool alone() const;

  void complete();
  void conclude(const Batch& batch, std::string error);

  std::shared_ptr<Executor> executor_;
  mutable std::mutex mutex_;
  std::condition_variable work_changed_;    // requests, free slots, submitter, closing: the worker waits
  std::condition_variable flight_changed_;  // batches in flight, worker's end: the completion thread waits
  BatchPlanner planner_;
  std::unordered_map<std::uint64_t, TicketPtr> queued_;  // what the planner knows, by its id
  std::vector<int> free_slots_;
  bool submitting_ = false;      // somebody submits, one at a time
  bool slot_wanted_ = false;     // the worker waits for a slot
  std::optional<CutWave> left_;  // by a caller, to the worker
  std::deque<Batch> in_flight_;  // for the completion thread
  std::size_t lone_ = 0;         // batches that callers see through
  std::uint64_t next_id_ = 0;
  // Typically from when the thread is to wake for `before_end` to its end; the first is a guess.
  std::atomic<Clock::duration> before_end_takes_{std::chrono::microseconds(350)};
  bool closing_ = false;
  bool worker_ended_ = false;
  ScorerStats stats_;
  Histogram queue_time_{0.01};
  std::mutex close_mutex_;
  std::thread worker_;
  std::thread completer_;
};

}  // namespace searchpipe::runtime
