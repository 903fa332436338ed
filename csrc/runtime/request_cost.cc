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
  double seconds = 0.0;
  for (const BucketBatch& batch : cut_into_batches(descending(lengths), engine_, costs_, false)) {
    seconds += seconds_[static_cast<std::size_t>(batch.bucket)];
  }
  return seconds;
}

// Counted rather than compared where lengths are small, as those of texts are.
std::vector<std::int32_t> RequestCost::descending(std::span<const std::int32_t> lengths) const {
  constexpr std::int32_t kFewLengths = 4096;
  std::vector<std::int32_t> ordered(lengths.begin(), lengths.end());
  for (std::int32_t& length : ordered) length = std::min(length, engine_.longest_row);
  if (ordered.empty()) return ordered;
  const auto [shortest, longest] = std::minmax_element(ordered.begin(), ordered.end());
  const std::int32_t least = *shortest;
  if (std::int64_t{*longest} - least >= kFewLengths) {
    std::sort(ordered.begin(), ordered.end(), std::greater<>());
    return ordered;
  }
  std::vector<std::int32_t> count(static_cast<std::size_t>(*longest - least) + 1);
  for (const std::int32_t length : ordered) ++count[static_cast<std::size_t>(length - least)];
  auto out = ordered.begin();
  for (std::size_t i = count.size(); i-- > 0;) {
    out = std::fill_n(out, count[i], least + static_cast<std::int32_t>(i));
  }
  return ordered;
}

}  // namespace searchpipe::runtime
