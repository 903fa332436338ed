#include "runtime/bucket_batches.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "core/message.h"

namespace searchpipe::runtime {
namespace {

constexpr double kUnreachable = std::numeric_limits<double>::infinity();
// Batches of the rows in their order: where they end, and what they cost.
class Cuts {
 public:
  Cuts(std::span<const std::int32_t> lengths, const EngineShape& engine, const std::vector<BucketCost>& costs,
       bool exact_shape)
      : lengths_(lengths), engine_(engine), costs_(costs), exact_shape_(exact_shape) {
    tokens_before_.reserve(lengths.size() + 1);
    tokens_before_.push_back(0);
    for (const std::int32_t length : lengths) tokens_before_.push_back(tokens_before_.back() + length);
    for (std::size_t b = 0; b < costs.size(); ++b) {
      const double per_token = exact_shape ? costs[b].per_token : 0.0;
      const auto places = static_cast<double>(engine.places(engine.buckets[b]));
      least_batch_ = std::min(least_batch_, costs[b].fixed);
      least_token_ = std::min(least_token_, costs[b].fixed / places + per_token);
      bounded_ = bounded_ && costs[b].fixed >= 0.0 && per_token >= 0.0;
    }
  }

  // `begin` itself if the bucket does not hold even that row.
  std::size_t end(std::size_t begin, std::size_t bucket_index) const {
    const Bucket& bucket = engine_.buckets[bucket_index];
    const std::size_t most = std::min(lengths_.size(), begin + static_cast<std::size_t>(bucket.rows));
    if (!engine_.packed()) return bucket.tokens < lengths_[begin] ? begin : most;
    const std::int64_t tokens_end = tokens_before_[begin] + bucket.tokens;
    if (tokens_before_[most] <= tokens_end) return most;
    const auto at = [&](std::size_t row) {
      return tokens_before_.begin() + static_cast<std::ptrdiff_t>(row);
    };
    return static_cast<std::size_t>(std::upper_bound(at(begin), at(most), tokens_end) - at(0)) - 1;
  }

  double cost(std::size_t begin, std::size_t end, std::size_t bucket) const {
    const double area = static_cast<double>(end - begin) * lengths_[begin];
    return costs_[bucket].fixed + (exact_shape_ ? costs_[bucket].per_token * area : 0.0);
  }

  // What the rows from `begin` on cost at least, however they are cut: one batch, and of the bucket with the
  // cheapest places as many of these as there are tokens.
  double least(std::size_t begin) const {
    if (begin == lengths_.size()) return 0.0;
    if (!bounded_) return -kUnreachable;
    const auto tokens = static_cast<double>(tokens_before_.back() - tokens_before_[begin]);
    return std::max(least_batch_, least_token_ * tokens);
  }

 private:
  std::span<const std::int32_t> lengths_;
  const EngineShape& engine_;
  const std::vector<BucketCost>& costs_;
  bool exact_shape_;
  bool bounded_ = true;  // costs below zero bound nothing
  double least_batch_ = kUnreachable;
  double least_token_ = kUnreachable;
  std::vector<std::int64_t> tokens_before_;
};

struct Cut {
  std::size_t begin;
  std::size_t end;
  int bucket;
  double cost;  // of this batch
};

// The batches that may be part of the best plan, by their first row and then by bucket: all but those that
// cannot be reached from row 0, or with which any plan costs more than one that is known.
std::vector<Cut> promising(const Cuts& cuts, std::size_t rows, std::size_t buckets) {
  std::vector<double> before(rows + 1, kUnreachable);  // least cost of the batches up to a row
  before[0] = 0.0;
  double known = kUnreachable;
  // Sums of the same costs in another order differ by their rounding.
  const auto more_than_known = [&](double cost) { return cost > known + 1e-9 * std::abs(known); };
  std::vector<Cut> found;
  for (std::size_t i = 0; i < rows; ++i) {
    if (before[i] == kUnreachable || more_than_known(before[i] + cuts.least(i))) continue;
    const std::size_t first = found.size();
    for (std::size_t b = 0; b < buckets; ++b) {
      const std::size_t end = cuts.end(i, b);
      if (end == i) continue;
      found.push_back({i, end, static_cast<int>(b), cuts.cost(i, end, b)});
      if (end == rows) known = std::min(known, before[i] + found.back().cost);
    }
    const auto worse = [&](const Cut& cut) {
      return more_than_known(before[i] + cut.cost + cuts.least(cut.end));
    };
    found.erase(std::remove_if(found.begin() + static_cast<std::ptrdiff_t>(first), found.end(), worse),
                found.end());
    for (std::size_t at = first; at < found.size(); ++at) {
      double& there = before[found[at].end];
      there = std::min(there, before[i] + found[at].cost);
    }
  }
  return found;
}

}  // namespace

std::vector<BucketBatch> cut_into_batches(std::span<const std::int32_t> lengths, const EngineShape& engine,
                                          const std::vector<BucketCost>& costs, bool exact_shape) {
  const std::vector<Bucket>& buckets = engine.buckets;
  const std::size_t rows = lengths.size();
  std::int32_t widest = 0;
  for (const Bucket& bucket : buckets) widest = std::max(widest, bucket.tokens);
  for (const std::int32_t length : lengths) {
    if (length > widest) throw std::invalid_argument(message("a row of ", length, " tokens fits no bucket"));
  }
  struct Step {
    double cost = kUnreachable;  // of this batch and all after it
    std::size_t end = 0;
    int bucket = -1;
  };
  std::vector<Step> steps(rows + 1);
  steps[rows].cost = 0.0;
  const std::vector<Cut> cuts = promising(Cuts(lengths, engine, costs, exact_shape), rows, buckets.size());
  for (auto cut = cuts.rbegin(); cut != cuts.rend(); ++cut) {
    const double cost = cut->cost + steps[cut->end].cost;
    // Of equal ones the first bucket, which comes last here.
    if (cost <= steps[cut->begin].cost && cost < kUnreachable) {
      steps[cut->begin] = {cost, cut->end, cut->bucket};
    }
  }
  std::vector<BucketBatch> plan;
  for (std::size_t i = 0; i < rows; i = steps[i].end) {
    const Step& step = steps[i];
    if (step.bucket < 0) {
      throw std::invalid_argument(message("a row of ", lengths[i], " tokens fits no bucket of finite cost"));
    }
    Bucket shape = buckets[static_cast<std::size_t>(step.bucket)];
    if (exact_shape) shape = {static_cast<std::int32_t>(step.end - i), lengths[i]};
    plan.push_back({i, step.end, step.bucket, shape});
  }
  return plan;
}

BatchCost fit_cost(const EngineShape& engine, const std::vector<BucketCost>& costs) {
  constexpr double kSecondsPerMillisecond = 1e-3;
  const auto n = static_cast<double>(engine.buckets.size());
  double x_sum = 0.0;
  double y_sum = 0.0;
  double xx_sum = 0.0;
  double xy_sum = 0.0;
  for (std::size_t b = 0; b < engine.buckets.size(); ++b) {
    const auto x = static_cast<double>(engine.places(engine.buckets[b]));
    const double y = (costs[b].fixed + costs[b].per_token * x) * kSecondsPerMillisecond;
    x_sum += x;
    y_sum += y;
    xx_sum += x * x;
    xy_sum += x * y;
  }
  const double spread = n * xx_sum - x_sum * x_sum;
  const double slope = spread > 0.0 ? (n * xy_sum - x_sum * y_sum) / spread : y_sum / x_sum;
  const double per_token = std::max(slope, 0.0);
  return {std::max((y_sum - per_token * x_sum) / n, 0.0), per_token};
}

}  // namespace searchpipe::runtime
