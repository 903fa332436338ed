#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

namespace searchpipe {

struct BatchLimits {
  std::int64_t max_rows = 256;
  std::int64_t token_budget = 16384;  // places of a batch: rows x width, or if packed, tokens
  std::int64_t width_step = 1;  // widths are rounded up to a multiple (the shapes an engine was built for)
  double max_delay_s = 0.005;   // longest wait for company
  double starve_after_s = 0.1;  // wait after which order of arrival comes before priority
  std::int64_t max_queued_rows = 65536;
  std::int64_t max_queued_requests = 4096;
  bool packed = false;  // rows lie one after the other: a row takes as many places as it has tokens
};

// Estimated seconds of a batch: base_s + token_s x places.
struct BatchCost {
  double base_s = 1e-3;
  double token_s = 1e-6;
  double seconds(std::int64_t places) const { return base_s + token_s * static_cast<double>(places); }
};

// Why a request was not queued.
enum class Refusal { kNone, kQueuedRequests, kQueuedRows, kRowTooWide, kDeadlinePassed };

struct Admission {
  Refusal refusal = Refusal::kNone;
  std::string reason;  // value, limit and cure; empty when accepted
  bool accepted() const { return refusal == Refusal::kNone; }
};

// Rows first_row .. first_row + rows - 1 of one request.
struct BatchPart {
  std::uint64_t request;
  std::int64_t first_row;
  std::int64_t rows;
};

// Why a batch was not held back any longer.
enum class Trigger { kFull, kDelay, kDeadline, kFlush };

struct PlannedBatch {
  std::vector<BatchPart> parts;  // most urgent first
  std::int64_t rows = 0;
  std::int64_t width = 0;   // tokens of the longest row, rounded up to width_step
  std::int64_t tokens = 0;  // without padding
  std::int64_t places = 0;  // with it
  double estimated_s = 0.0;
  Trigger trigger = Trigger::kFlush;
};

// A batch to run now or, without one, when to ask again (infinity when nothing waits; ask again after every
// add).
struct Decision {
  std::optional<PlannedBatch> batch;
  double ask_again_at = std::numeric_limits<double>::infinity();
};

// Decides which rows of which requests run together, and when. Pure policy: it never looks at a clock, never
// sleeps and runs nothing. Times are seconds on any clock that the caller passes in; one that steps back is
// taken to stand still.
//
// Order: larger priority first, inside a priority the earliest deadline, then order of arrival. A request
// that has waited starve_after_s comes before every request that arrived after it, whatever their priority.
// From then on it starts within 1 + B batches, where B is the sum over the requests that arrived before it
// and are still queued of ceil(rows / most rows of that width in one batch): every batch starts with the
// first request in this order.
//
// A batch takes as many rows of the first request as the limits allow (the rest stays in the queue), then
// rows of the next ones. A request is passed over while
// - the added padding is estimated to cost more than a batch of its own would (length-aware grouping), or
// - it would make the batch end after a deadline that the batch without it keeps.
// A batch is held back for company until it is full, or one of the waiting requests has waited max_delay_s or
// could not keep its deadline by the estimated cost if it waited any longer.
//
// One thread at a time.
class BatchPlanner {
 public:
  // Throws std::invalid_argument for limits outside 1 .. 2^40, or times that are negative, NaN or infinite
  // (starve_after_s may be infinite).
  BatchPlanner(const BatchLimits& limits, const BatchCost& cost);

  // Queues a request whose rows have these numbers of tokens, longest first (as PairPacker lays them out).
  // Throws std::invalid_argument for no rows, a length below 1, another order, an id that is queued, or a
  // time that is NaN. Load is no error: see Refusal.
  Admission add(std::uint64_t id, std::vector<std::int32_t> lengths, double now, double deadline,
                std::int32_t priority);

  // Drops the rows of a request that are still queued; false when there are none.
  bool cancel(std::uint64_t id);

  // Removes and returns the requests whose deadline is `now` or earlier, in order of arrival. Call it before
  // next_batch, which never batches them.
  std::vector<std::uint64_t> expire(double now);

  // `flush`: do not wait for company (an idle engine, or shutdown).
  Decision next_batch(double now, bool flush);

  // Takes a newer estimate into account from the next decision on.
  void set_cost(const BatchCost& cost);

  const BatchLimits& limits() const { return limits_; }
  const BatchCost& cost() const { return cost_; }
  std::int64_t queued_requests() const { return static_cast<std::int64_t>(requests_.size()); }
  std::int64_t queued_rows() const { return queued_rows_; }
  std::int64_t queued_tokens() const { return queued_tokens_; }  // without padding

 private:
  struct Request {
    std::uint64_t id;
    std::uint64_t sequence;  // order of arrival
    std::vector<std::int32_t> lengths;
    std::size_t next_row;
    double arrival;
    double deadline;
    std::int32_t priority;
    std::int64_t rows_left() const { return static_cast<std::int64_t>(lengths.size() - next_row); }
  };
  struct MoreUrgent {
    bool operator()(const Request* a, const Request* b) const;
  };
  struct Draft;

  double advance(double now);
  std::int64_t width_of(const Request& request) const;
  std::int64_t places(const Draft& draft, const Request& request, std::int64_t rows) const;
  std::int64_t room(const Draft& draft, const Request& request) const;
  Draft compose() const;
  void join(Draft& draft, Request& request) const;
  double due_at(const Draft& draft) const;
  PlannedBatch hand_out(Draft& draft, bool flush);
  void forget_rows(Request& request, std::int64_t rows);
  void remove(std::uint64_t id);

  BatchLimits limits_;
  BatchCost cost_;
  double now_ = -std::numeric_limits<double>::infinity();
  std::uint64_t next_sequence_ = 0;
  std::int64_t queued_rows_ = 0;
  std::int64_t queued_tokens_ = 0;
  std::unordered_map<std::uint64_t, Request> requests_;
  std::set<Request*, MoreUrgent> by_urgency_;
  std::map<std::uint64_t, Request*> by_arrival_;
};

}  // namespace searchpipe
