#include "runtime/bucket_batches.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "core/message.h"

namespace searchpipe::runtime {
namespace {

// Where a batch of each bucket ends that begins at row i; i must not grow from call to call.
class Reach {
 public:
  Reach(std::span<const std::int32_t> lengths, const EngineShape& engine)
      : lengths_(lengths), engine_(engine), ends_(engine.buckets.size(), lengths.size()) {
    tokens_before_.reserve(lengths.size() + 1);
    tokens_before_.push_back(0);
    for (const std::int32_t length : lengths) tokens_before_.push_back(tokens_before_.back() + length);
  }

  // `begin` itself if the bucket does not hold even that row.
  std::size_t end(std::size_t begin, std::size_t bucket_index) {
    const Bucket& bucket = engine_.buckets[bucket_index];
    std::size_t& end = ends_[bucket_index];
    end = std::min(end, begin + static_cast<std::size_t>(bucket.rows));
    if (!engine_.packed()) return bucket.tokens < lengths_[begin] ? begin : end;
    while (tokens_before_[end] - tokens_before_[begin] > bucket.tokens) --end;
    return end;
  }

 private:
  std::span<const std::int32_t> lengths_;
  const EngineShape& engine_;
  std::vector<std::int64_t> tokens_before_;
  std::vector<std::size_t> ends_;
};

}  // namespace

std::vector<BucketBatch> cut_into_batches(std::span<const std::int32_t> lengths, const EngineShape& engine,
                                          const std::vector<BucketCost>& costs, bool exact_shape) {
  const std::vector<Bucket>& buckets = engine.buckets;
  const std::size_t rows = lengths.size();
  constexpr double kUnreachable = std::numeric_limits<double>::infinity();
  struct Step {
    double cost = kUnreachable;  // of this batch and all after it
    std::size_t end = 0;
    int bucket = -1;
  };
  std::vector<Step> steps(rows + 1);
  steps[rows].cost = 0.0;
  Reach reach(lengths, engine);
  for (std::size_t i = rows; i-- > 0;) {
    for (std::size_t b = 0; b < buckets.size(); ++b) {
      const std::size_t end = reach.end(i, b);
      if (end == i) continue;
      const double area = static_cast<double>(end - i) * lengths[i];
      const double cost = costs[b].fixed + (exact_shape ? costs[b].per_token * area : 0.0) + steps[end].cost;
      if (cost < steps[i].cost) steps[i] = {cost, end, static_cast<int>(b)};
    }
    if (steps[i].bucket < 0) {
      throw std::invalid_argument(message("a row of ", lengths[i], " tokens fits no bucket"));
    }
  }
  std::vector<BucketBatch> plan;
  for (std::size_t i = 0; i < rows; i = steps[i].end) {
    const Step& step = steps[i];
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
