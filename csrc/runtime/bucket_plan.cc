#include "runtime/bucket_plan.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

namespace searchpipe::runtime {

std::vector<PlannedBatch> plan_batches(std::span<const std::int32_t> lengths, const std::vector<Bucket>& buckets,
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
  std::vector<PlannedBatch> plan;
  for (std::size_t i = 0; i < rows;) {
    const Bucket& bucket = buckets[static_cast<std::size_t>(choice[i])];
    const std::size_t taken = std::min<std::size_t>(static_cast<std::size_t>(bucket.rows), rows - i);
    const Bucket shape = exact_shape ? Bucket{static_cast<std::int32_t>(taken), lengths[i]} : bucket;
    plan.push_back({i, i + taken, choice[i], shape});
    i += taken;
  }
  return plan;
}

}  // namespace searchpipe::runtime
