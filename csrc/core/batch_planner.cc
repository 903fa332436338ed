#include "core/batch_planner.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "core/message.h"

namespace searchpipe {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

void check_count(std::int64_t value, const char* name) {
  constexpr std::int64_t kMost = std::int64_t{1} << 40;  // products of rows and widths stay in range
  if (value < 1 || value > kMost) {
    throw std::invalid_argument(message(name, " is ", value, "; it must be between 1 and ", kMost));
  }
}

void check_seconds(double value, const char* name, double most) {
  if (!(value >= 0.0 && value <= most)) {
    throw std::invalid_argument(
        message(name, " is ", value, " s; it must be at least 0", most < kNever ? " and finite" : ""));
  }
}

void check_cost(const BatchCost& cost) {
  check_seconds(cost.base_s, "base_s", std::numeric_limits<double>::max());
  check_seconds(cost.token_s, "token_s", std::numeric_limits<double>::max());
}

void check_lengths(const std::vector<std::int32_t>& lengths) {
  if (lengths.empty()) throw std::invalid_argument("a request has no rows; answer it without a batch");
  for (std::size_t row = 0; row < lengths.size(); ++row) {
    if (lengths[row] < 1) {
      throw std::invalid_argument(
          message("lengths[", row, "] is ", lengths[row], "; a row has at least 1 token"));
    }
    if (row > 0 && lengths[row] > lengths[row - 1]) {
      throw std::invalid_argument(
          message("lengths[", row, "] is ", lengths[row], ", more than the ", lengths[row - 1],
                  " before it; order the rows longest first, as PairPacker.layout does"));
    }
  }
}

}  // namespace

// A batch in the making.
struct BatchPlanner::Draft {
  struct Share {
    Request* request;
    std::int64_t rows;
  };
  std::vector<Share> shares;
  std::vector<Request*> passed_over;  // padding would have cost more than a batch of their own
  std::int64_t rows = 0;
  std::int64_t width = 0;
  std::int64_t places = 0;
  bool full = false;                  // limits leave no place for some of what waits
  bool cut_short = false;             // a deadline does
  double tightest_deadline = kNever;  // that the batch as it is keeps
};

bool BatchPlanner::MoreUrgent::operator()(const Request* a, const Request* b) const {
  if (a->priority != b->priority) return a->priority > b->priority;
  if (a->deadline != b->deadline) return a->deadline < b->deadline;
  return a->sequence < b->sequence;
}

BatchPlanner::BatchPlanner(const BatchLimits& limits, const BatchCost& cost) : limits_(limits), cost_(cost) {
  check_count(limits.max_rows, "max_rows");
  check_count(limits.token_budget, "token_budget");
  check_count(limits.width_step, "width_step");
  check_count(limits.max_queued_rows, "max_queued_rows");
  check_count(limits.max_queued_requests, "max_queued_requests");
  check_seconds(limits.max_delay_s, "max_delay_s", std::numeric_limits<double>::max());
  check_seconds(limits.starve_after_s, "starve_after_s", kNever);
  check_cost(cost);
}

void BatchPlanner::set_cost(const BatchCost& cost) {
  check_cost(cost);
  cost_ = cost;
}

double BatchPlanner::advance(double now) {
  if (!std::isfinite(now)) throw std::invalid_argument(message("now is ", now, "; pass seconds of a clock"));
  return now_ = std::max(now_, now);
}

std::int64_t BatchPlanner::width_of(const Request& request) const {
  const std::int64_t longest = request.lengths[request.next_row];
  return (longest + limits_.width_step - 1) / limits_.width_step * limits_.width_step;
}

// Of the draft with so many rows of the request added.
std::int64_t BatchPlanner::places(const Draft& draft, const Request& request, std::int64_t rows) const {
  if (!limits_.packed) return (draft.rows + rows) * std::max(draft.width, width_of(request));
  const auto next = request.lengths.begin() + static_cast<std::ptrdiff_t>(request.next_row);
  return std::accumulate(next, next + rows, draft.places);
}

// Rows of the request that the limits leave place for; below 1 for none.
std::int64_t BatchPlanner::room(const Draft& draft, const Request& request) const {
  if (!limits_.packed) {
    const std::int64_t width = std::max(draft.width, width_of(request));
    return std::min(limits_.max_rows, limits_.token_budget / width) - draft.rows;
  }
  const std::int64_t most = std::min(limits_.max_rows - draft.rows, request.rows_left());
  std::int64_t places = draft.places;
  std::int64_t rows = 0;
  while (rows < most) {
    places += request.lengths[request.next_row + static_cast<std::size_t>(rows)];
    if (places > limits_.token_budget) break;
    ++rows;
  }
  return rows;
}

Admission BatchPlanner::add(std::uint64_t id, std::vector<std::int32_t> lengths, double now, double deadline,
                            std::int32_t priority) {
  check_lengths(lengths);
  if (std::isnan(deadline)) throw std::invalid_argument("deadline is NaN; pass infinity for none");
  if (requests_.contains(id)) {
    throw std::invalid_argument(message("request ", id, " is queued already; give each request its own id"));
  }
  now = advance(now);
  const auto rows = static_cast<std::int64_t>(lengths.size());
  Request request{id, next_sequence_, std::move(lengths), 0, now, deadline, priority};
  if (deadline <= now) {
    return {Refusal::kDeadlinePassed, message("the deadline passed ", now - deadline, " s ago")};
  }
  if (width_of(request) > limits_.token_budget) {
    return {Refusal::kRowTooWide,
            message("a row is ", width_of(request), " tokens wide, more than the token budget of ",
                    limits_.token_budget, " of a batch; truncate it or raise token_budget")};
  }
  if (queued_requests() >= limits_.max_queued_requests) {
    return {Refusal::kQueuedRequests, message(queued_requests(), " requests are queued, the limit is ",
                                              limits_.max_queued_requests, "; try again later")};
  }
  if (rows > limits_.max_queued_rows - queued_rows_) {
    return {Refusal::kQueuedRows,
            message(queued_rows_, " rows are queued and ", rows, " more would exceed the limit of ",
                    limits_.max_queued_rows, "; score fewer rows or try again later")};
  }
  ++next_sequence_;
  queued_rows_ += rows;
  queued_tokens_ += std::accumulate(request.lengths.begin(), request.lengths.end(), std::int64_t{0});
  Request* const queued = &requests_.emplace(id, std::move(request)).first->second;
  by_urgency_.insert(queued);
  by_arrival_.emplace(queued->sequence, queued);
  return {};
}

void BatchPlanner::forget_rows(Request& request, std::int64_t rows) {
  const auto first = request.lengths.begin() + static_cast<std::ptrdiff_t>(request.next_row);
  queued_tokens_ -= std::accumulate(first, first + rows, std::int64_t{0});
  queued_rows_ -= rows;
  request.next_row += static_cast<std::size_t>(rows);
}

void BatchPlanner::remove(std::uint64_t id) {
  const auto found = requests_.find(id);
  Request& request = found->second;
  forget_rows(request, request.rows_left());
  by_urgency_.erase(&request);
  by_arrival_.erase(request.sequence);
  requests_.erase(found);
}

bool BatchPlanner::cancel(std::uint64_t id) {
  if (!requests_.contains(id)) return false;
  remove(id);
  return true;
}

std::vector<std::uint64_t> BatchPlanner::expire(double now) {
  now = advance(now);
  std::vector<std::uint64_t> expired;
  for (const auto& [sequence, request] : by_arrival_) {
    if (request->deadline <= now) expired.push_back(request->id);
  }
  for (const std::uint64_t id : expired) remove(id);
  return expired;
}

BatchPlanner::Draft BatchPlanner::compose() const {
  Draft draft;
  const auto starves = [this](const Request* request) {
    return now_ - request->arrival >= limits_.starve_after_s;
  };
  for (const auto& [sequence, request] : by_arrival_) {
    if (draft.full || !starves(request)) break;
    if (request->deadline > now_) join(draft, *request);
  }
  for (Request* const request : by_urgency_) {
    if (draft.full) break;
    if (!starves(request) && request->deadline > now_) join(draft, *request);
  }
  return draft;
}

// Adds as many rows of the request as are worth it.
void BatchPlanner::join(Draft& draft, Request& request) const {
  const std::int64_t fitting = room(draft, request);
  std::int64_t rows = std::min(std::max<std::int64_t>(fitting, 1), request.rows_left());
  const auto seconds = [&] { return cost_.seconds(places(draft, request, rows)); };
  if (draft.rows > 0) {
    if (seconds() > cost_.seconds(draft.places) + cost_.seconds(places({}, request, rows))) {
      draft.passed_over.push_back(&request);
      return;
    }
    if (fitting < 1) {
      draft.full = true;
      return;
    }
    while (rows > 0 && now_ + seconds() > draft.tightest_deadline) {
      rows /= 2;  // a smaller share may still keep the deadline; the largest that does is not worth a search
      draft.cut_short = true;
    }
    if (rows == 0) return;
  }
  draft.shares.push_back({&request, rows});
  draft.places = places(draft, request, rows);
  draft.rows += rows;
  draft.width = std::max(draft.width, width_of(request));
  if (now_ + cost_.seconds(draft.places) <= request.deadline) {
    draft.tightest_deadline = std::min(draft.tightest_deadline, request.deadline);
  }
  const std::int64_t one_more = draft.places + (limits_.packed ? 1 : draft.width);
  draft.full =
      fitting < request.rows_left() || draft.rows == limits_.max_rows || one_more > limits_.token_budget;
}

// When the batch must start for the sake of those that wait.
double BatchPlanner::due_at(const Draft& draft) const {
  double due = kNever;
  double busy_s = cost_.seconds(draft.places);
  for (const Draft::Share& share : draft.shares) {
    due = std::min({due, share.request->arrival + limits_.max_delay_s, share.request->deadline - busy_s});
  }
  for (const Request* const request : draft.passed_over) {
    // An upper bound: they may well share batches.
    const std::int64_t rows = std::min(request->rows_left(), room({}, *request));
    busy_s += cost_.seconds(places({}, *request, rows));
    due = std::min({due, request->arrival + limits_.max_delay_s, request->deadline - busy_s});
  }
  return due;
}

PlannedBatch BatchPlanner::hand_out(Draft& draft, bool flush) {
  PlannedBatch batch;
  batch.rows = draft.rows;
  batch.width = draft.width;
  batch.places = draft.places;
  batch.estimated_s = cost_.seconds(draft.places);
  bool delayed = false;
  const std::int64_t tokens_before = queued_tokens_;
  for (const Draft::Share& share : draft.shares) {
    Request& request = *share.request;
    delayed = delayed || request.arrival + limits_.max_delay_s <= now_;
    batch.parts.push_back({request.id, static_cast<std::int64_t>(request.next_row), share.rows});
    forget_rows(request, share.rows);
    if (request.rows_left() == 0) remove(request.id);
  }
  for (const Request* const request : draft.passed_over) {
    delayed = delayed || request->arrival + limits_.max_delay_s <= now_;
  }
  batch.tokens = tokens_before - queued_tokens_;
  batch.trigger = draft.full ? Trigger::kFull
                  : flush    ? Trigger::kFlush
                  : delayed  ? Trigger::kDelay
                             : Trigger::kDeadline;
  return batch;
}

Decision BatchPlanner::next_batch(double now, bool flush) {
  now = advance(now);
  Draft draft = compose();
  if (draft.shares.empty()) return {};
  const double due = due_at(draft);
  if (!flush && !draft.full && !draft.cut_short && due > now) return {std::nullopt, due};
  return {hand_out(draft, flush), now};
}

}  // namespace searchpipe
