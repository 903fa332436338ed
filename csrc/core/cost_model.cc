#include "core/cost_model.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <stdexcept>

#include "core/message.h"

namespace searchpipe {
namespace {

constexpr std::int64_t kSettled = 8;  // steps after which a bucket's mean is trusted to be warm

int key_of(double size) {
  if (!std::isfinite(size)) throw std::invalid_argument(message("size is ", size, "; it must be finite"));
  return static_cast<int>(std::nearbyint(2.0 * std::log2(std::max(size, 1e-9))));
}

// The bucket of this size, or the closest one (the larger of two). There is one at least.
template <class Buckets>
auto& nearest(Buckets& buckets, double size) {
  const int key = key_of(size);
  const auto above = buckets.lower_bound(key);
  if (above == buckets.begin()) return above->second;
  const auto below = std::prev(above);
  if (above == buckets.end() || key - below->first < above->first - key) return below->second;
  return above->second;
}

}  // namespace

void CostModel::observe(std::string_view stage, double size, double seconds) {
  if (!(size > 0.0 && std::isfinite(size) && seconds >= 0.0 && std::isfinite(seconds))) return;
  const int key = key_of(size);
  const std::lock_guard lock(mutex_);
  auto found = stages_.find(stage);
  if (found == stages_.end()) found = stages_.emplace(std::string(stage), Buckets()).first;
  // One sample says nothing of the spread: assume a quarter.
  const Bucket first{size, seconds, 0.25 * seconds};
  const auto [place, added] = found->second.try_emplace(key, first);
  if (added) return;
  Bucket& bucket = place->second;
  const bool settled = bucket.seen >= kSettled;
  if (!settled && seconds < bucket.mean / 2.0) {  // what came before was a cold start
    const std::int64_t seen = bucket.seen + 1;
    bucket = first;
    bucket.seen = seen;
    return;
  }
  const double error = (settled ? std::min(seconds, 4.0 * bucket.mean) : seconds) - bucket.mean;
  const double weight = error > 0.0 ? settings_.rise : settings_.fall;
  ++bucket.seen;
  bucket.size += weight * (size - bucket.size);
  bucket.mean += weight * error;
  bucket.deviation += weight * (std::abs(error) - bucket.deviation);
}

std::optional<double> CostModel::predict(std::string_view stage, double size) const {
  const std::lock_guard lock(mutex_);
  const auto found = stages_.find(stage);
  if (found == stages_.end()) return std::nullopt;
  return cautious(found->second, size);
}

std::int64_t CostModel::largest_within(std::string_view stage, double size_of_one, std::int64_t limit,
                                       double seconds) const {
  if (limit <= 0 || !(seconds > 0.0)) return 0;
  const std::lock_guard lock(mutex_);
  const auto found = stages_.find(stage);
  if (found == stages_.end()) return 1;
  std::int64_t low = 0, high = limit;
  while (low < high) {
    const std::int64_t middle = low + (high - low + 1) / 2;
    if (cautious(found->second, static_cast<double>(middle) * size_of_one) <= seconds) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

void CostModel::relax(std::string_view stage, double size, double now) {
  const std::lock_guard lock(mutex_);
  const auto found = stages_.find(stage);
  if (found == stages_.end()) return;
  Bucket& bucket = nearest(found->second, size);
  if (now - bucket.relaxed_at < 1.0) return;
  bucket.relaxed_at = now;
  bucket.mean *= 0.9;
  bucket.deviation *= 0.9;
}

std::vector<CostModel::Typical> CostModel::typical() const {
  const std::lock_guard lock(mutex_);
  std::vector<Typical> all;
  for (const auto& [stage, buckets] : stages_) {
    for (const auto& [key, bucket] : buckets) all.push_back({stage, bucket.size, bucket.mean});
  }
  return all;
}

double CostModel::cautious(const Buckets& buckets, double size) const {
  const Bucket& bucket = nearest(buckets, size);
  return (bucket.mean + settings_.margin * bucket.deviation) * std::max(1.0, size / bucket.size);
}

}  // namespace searchpipe
