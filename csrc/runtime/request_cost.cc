#include "runtime/request_cost.h"

#include <algorithm>
#include <functional>
#include <stdexcept>
#include <utility>

#include "core/message.h"

namespace searchpipe::runtime {

RequestCost::RequestCost(EngineShape engine, std::vector<BucketCost> costs)
    : engine_(std::move(engine)), costs_(std::move(costs)) {
  if (costs_.size() != engine_.buckets.size()) {
    throw std::invalid_argument(
        message("there are ", costs_.size(), " costs for ", engine_.buckets.size(), " buckets"));
  }
  constexpr double kMillisecondsPerSecond = 1e3;
  for (std::size_t b = 0; b < costs_.size(); ++b) {
    const Bucket& bucket = engine_.buckets[b];
    seconds_.push_back((costs_[b].fixed + costs_[b].per_token * bucket.rows * bucket.tokens) /
                       kMillisecondsPerSecond);
  }
}

double RequestCost::seconds(std::span<const std::int32_t> lengths) const {
  std::vector<std::int32_t> ordered(lengths.begin(), lengths.end());
  for (std::int32_t& length : ordered) length = std::min(length, engine_.longest_row);
  std::sort(ordered.begin(), ordered.end(), std::greater<>());
  double seconds = 0.0;
  for (const BucketBatch& batch : cut_into_batches(ordered, engine_, costs_, false)) {
    seconds += seconds_[static_cast<std::size_t>(batch.bucket)];
  }
  return seconds;
}

}  // namespace searchpipe::runtime
