#include "runtime/bucket_batches.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

namespace searchpipe::runtime {

std::vector<BucketBatch> cut_into_batches(std::span<const std::int32_t> lengths,
                                          const std::vector<Bucket>& buckets,
                                          const std::vector<BucketCost>& costs, bool exact_shape) {
  const std::size_t rows = lengths.size();
  constexpr double kUnreachable = std::numeric_limits<double>::infinity();
  std::vector<double> best(rows + 1, kUnreachable);
  std::vector<int> choice(rows + 1, -1);
  best[rows] = 0.0;
  for (std::size_t i = rows; i-- > 0;) {
    for (std::size_t b = 0; b < buckets.size(); ++b) {
      if (buckets[b].tokens < lengths[i]) continue;
      const std::size_t taken = std::min<std::size_t>(static_cast<std::size_t>(buckets[b].rows), rows - i);
      const double area = static_cast<double>(taken) * lengths[i];
      const double cost = costs[b].fixed + (exact_shape ? costs[b].per_token * area : 0.0) + best[i + taken];
      if (cost < best[i]) {
        best[i] = cost;
        choice[i] = static_cast<int>(b);
      }
    }
    if (choice[i] < 0) {
      throw std::invalid_argument("a row of " + std::to_string(lengths[i]) + " tokens fits no bucket");
    }
  }
  std::vector<BucketBatch> plan;
  for (std::size_t i = 0; i < rows;) {
    const Bucket& bucket = buckets[static_cast<std::size_t>(choice[i])];
    const std::size_t taken = std::min<std::size_t>(static_cast<std::size_t>(bucket.rows), rows - i);
    const Bucket shape = exact_shape ? Bucket{static_cast<std::int32_t>(taken), lengths[i]} : bucket;
    plan.push_back({i, i + taken, choice[i], shape});
    i += taken;
  }
  return plan;
}

BatchCost fit_cost(const std::vector<Bucket>& buckets, const std::vector<BucketCost>& costs) {
  constexpr double kSecondsPerMillisecond = 1e-3;
  const auto n = static_cast<double>(buckets.size());
  double x_sum = 0.0;
  double y_sum = 0.0;
  double xx_sum = 0.0;
  double xy_sum = 0.0;
  for (std::size_t b = 0; b < buckets.size(); ++b) {
    const auto x = static_cast<double>(buckets[b].area());
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
