#include "core/histogram.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <utility>

#include "core/checksum.h"
#include "core/message.h"

namespace searchpipe {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNothing = std::numeric_limits<double>::quiet_NaN();

struct Serialized {
  char magic[8];
  std::uint32_t byte_order;
  std::uint32_t version;
  double relative_error;
  double sum;
  double min;
  double max;
  std::uint64_t count;
  std::uint64_t first_bucket;
  std::uint64_t bucket_count;  // this many uint64 follow, then their and this header's checksum
};
static_assert(sizeof(Serialized) == 72);

constexpr char kMagic[8] = {'S', 'P', 'H', 'I', 'S', 'T', 'O', 'G'};
constexpr std::uint32_t kByteOrderMark = 0x01020304;
constexpr std::uint32_t kVersion = 1;

void check_value(double value) {
  if (!(value >= 0) || value == kInfinity) {
    throw std::invalid_argument(
        message("value ", value, " cannot be recorded; it must be finite and not negative"));
  }
}

double checked_error(double relative_error) {
  if (!(relative_error >= 0.0001 && relative_error <= 0.5)) {
    throw std::invalid_argument(
        message("relative_error is ", relative_error, "; it must be 0.0001 to 0.5 (0.01 is 1 %)"));
  }
  return relative_error;
}

[[noreturn]] void refuse(const std::string& what) {
  throw std::runtime_error(message("these bytes are no histogram: ", what));
}

}  // namespace

Histogram::Histogram(double relative_error)
    : relative_error_(checked_error(relative_error)),
      log_growth_(std::log1p(relative_error) - std::log1p(-relative_error)),
      first_exponent_(static_cast<std::int64_t>(std::floor(std::log(kLeast) / log_growth_))),
      buckets_(static_cast<std::size_t>(std::ceil(std::log(kMost) / log_growth_)) +
               static_cast<std::size_t>(-first_exponent_) + 3),
      min_(kInfinity),
      max_(-kInfinity) {}

Histogram::Histogram(Histogram&& other) noexcept
    : relative_error_(other.relative_error_),
      log_growth_(other.log_growth_),
      first_exponent_(other.first_exponent_),
      buckets_(std::move(other.buckets_)),
      count_(other.count_.load()),
      sum_(other.sum_.load()),
      min_(other.min_.load()),
      max_(other.max_.load()) {}

std::size_t Histogram::bucket_of(double value) const {
  if (value < kLeast) return 0;
  if (value > kMost) return buckets_.size() - 1;
  const auto exponent = static_cast<std::int64_t>(std::ceil(std::log(value) / log_growth_));
  const std::int64_t bucket = exponent - first_exponent_ + 1;
  return static_cast<std::size_t>(std::clamp<std::int64_t>(bucket, 1, std::ssize(buckets_) - 2));
}

double Histogram::estimate(std::size_t bucket) const {
  if (bucket == 0) return 0.0;
  if (bucket + 1 == buckets_.size()) return kInfinity;
  const double exponent = static_cast<double>(bucket) - 1 + static_cast<double>(first_exponent_);
  return std::exp(exponent * log_growth_) * (1 - relative_error_);  // 2 g^i / (g + 1) = g^i (1 - e)
}

void Histogram::widen(double least, double most) {
  double seen = min_.load(std::memory_order_relaxed);
  while (least < seen && !min_.compare_exchange_weak(seen, least, std::memory_order_relaxed)) {
  }
  seen = max_.load(std::memory_order_relaxed);
  while (most > seen && !max_.compare_exchange_weak(seen, most, std::memory_order_relaxed)) {
  }
}

void Histogram::record(double value) { record_many({&value, 1}); }

void Histogram::record_many(std::span<const double> values) {
  if (values.empty()) return;
  for (const double value : values) check_value(value);
  const auto [least, most] = std::minmax_element(values.begin(), values.end());
  widen(*least, *most);
  double sum = 0.0;
  for (const double value : values) sum += value;
  sum_.fetch_add(sum, std::memory_order_relaxed);
  // Buckets last, with release: whoever sees a value in its bucket sees a minimum and maximum that include
  // it.
  for (const double value : values) buckets_[bucket_of(value)].fetch_add(1, std::memory_order_release);
  count_.fetch_add(values.size(), std::memory_order_relaxed);
}

Histogram::State Histogram::state() const {
  State state;
  state.buckets.reserve(buckets_.size());
  for (const auto& bucket : buckets_) {
    state.buckets.push_back(bucket.load(std::memory_order_acquire));
    state.count += state.buckets.back();
  }
  state.sum = sum();
  state.min = min_.load(std::memory_order_relaxed);
  state.max = max_.load(std::memory_order_relaxed);
  return state;
}

void Histogram::add(const State& state) {
  if (state.count == 0) return;
  widen(state.min, state.max);
  sum_.fetch_add(state.sum, std::memory_order_relaxed);
  for (std::size_t i = 0; i < buckets_.size(); ++i) {
    if (state.buckets[i] > 0) buckets_[i].fetch_add(state.buckets[i], std::memory_order_release);
  }
  count_.fetch_add(state.count, std::memory_order_relaxed);
}

void Histogram::merge(const Histogram& other) {
  if (other.relative_error_ != relative_error_) {
    throw std::invalid_argument(message("histograms with relative errors ", relative_error_, " and ",
                                        other.relative_error_,
                                        " cannot be merged; give both the same relative_error"));
  }
  add(other.state());
}

double Histogram::min() const {
  const double value = min_.load(std::memory_order_relaxed);
  return value == kInfinity ? kNothing : value;
}

double Histogram::max() const {
  const double value = max_.load(std::memory_order_relaxed);
  return value == -kInfinity ? kNothing : value;
}

std::vector<double> Histogram::quantiles(std::span<const double> points) const {
  for (const double point : points) {
    if (!(point >= 0 && point <= 1)) {
      throw std::invalid_argument(message("quantile ", point, " is outside of 0..1 (0.99 is P99)"));
    }
  }
  const State now = state();
  std::vector<double> result;
  result.reserve(points.size());
  for (const double point : points) {
    if (now.count == 0) {
      result.push_back(kNothing);
      continue;
    }
    const auto rank = static_cast<std::uint64_t>(point * static_cast<double>(now.count - 1));
    std::size_t bucket = 0;
    for (std::uint64_t below = now.buckets[0]; below <= rank && bucket + 1 < now.buckets.size();) {
      below += now.buckets[++bucket];
    }
    result.push_back(std::clamp(estimate(bucket), now.min, now.max));
  }
  return result;
}

std::vector<std::byte> Histogram::to_bytes() const {
  const State now = state();
  Serialized header{};
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  header.byte_order = kByteOrderMark;
  header.version = kVersion;
  header.relative_error = relative_error_;
  std::span<const std::uint64_t> used;
  if (now.count > 0) {
    const auto filled = [](std::uint64_t count) { return count > 0; };
    const auto first = std::find_if(now.buckets.begin(), now.buckets.end(), filled);
    const auto end = std::find_if(now.buckets.rbegin(), now.buckets.rend(), filled).base();
    header.sum = now.sum;
    header.min = now.min;
    header.max = now.max;
    header.count = now.count;
    header.first_bucket = static_cast<std::uint64_t>(first - now.buckets.begin());
    used = {first, end};
  }
  header.bucket_count = used.size();
  std::vector<std::byte> bytes(sizeof(header) + used.size_bytes() + sizeof(std::uint64_t));
  std::memcpy(bytes.data(), &header, sizeof(header));
  if (!used.empty()) std::memcpy(bytes.data() + sizeof(header), used.data(), used.size_bytes());
  const std::uint64_t sum = checksum(std::span(bytes).first(bytes.size() - sizeof(std::uint64_t)));
  std::memcpy(bytes.data() + bytes.size() - sizeof(sum), &sum, sizeof(sum));
  return bytes;
}

Histogram Histogram::from_bytes(std::span<const std::byte> bytes) {
  Serialized header{};
  if (bytes.size() < sizeof(header) + sizeof(std::uint64_t)) {
    refuse(message(bytes.size(), " bytes are too few"));
  }
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (std::memcmp(header.magic, kMagic, sizeof(kMagic)) != 0) refuse("they do not begin with SPHISTOG");
  if (header.byte_order != kByteOrderMark) refuse("they come from a machine of the other byte order");
  if (header.version != kVersion) {
    refuse(message("their version is ", header.version, ", this release reads ", kVersion));
  }
  const std::size_t payload = bytes.size() - sizeof(header) - sizeof(std::uint64_t);
  if (header.bucket_count != payload / sizeof(std::uint64_t) || payload % sizeof(std::uint64_t) != 0) {
    refuse(message(header.bucket_count, " buckets do not fit into ", bytes.size(), " bytes"));
  }
  std::uint64_t sum = 0;
  std::memcpy(&sum, bytes.data() + bytes.size() - sizeof(sum), sizeof(sum));
  if (sum != checksum(bytes.first(bytes.size() - sizeof(sum)))) refuse("their checksum is wrong");
  if (!(header.relative_error >= 0.0001 && header.relative_error <= 0.5)) {
    refuse(message("their relative error is ", header.relative_error));
  }

  Histogram histogram(header.relative_error);
  const std::size_t buckets = histogram.buckets_.size();
  if (header.first_bucket > buckets || header.bucket_count > buckets - header.first_bucket) {
    refuse(message("buckets ", header.first_bucket, " + ", header.bucket_count, " of ", buckets));
  }
  State state;
  state.buckets.resize(buckets);
  for (std::size_t i = 0; i < header.bucket_count; ++i) {
    std::uint64_t& bucket = state.buckets[header.first_bucket + i];
    std::memcpy(&bucket, bytes.data() + sizeof(header) + i * sizeof(bucket), sizeof(bucket));
    if (bucket > header.count - state.count) refuse("their buckets hold more than their count");
    state.count += bucket;
  }
  if (state.count != header.count) refuse("their buckets hold less than their count");
  const bool sound = header.sum >= 0 && header.min >= 0 && header.min <= header.max && header.max < kInfinity;
  if (!sound) refuse(message("sum ", header.sum, ", min ", header.min, ", max ", header.max));
  state.sum = header.sum;
  state.min = header.min;
  state.max = header.max;
  histogram.add(state);
  return histogram;
}

}  // namespace searchpipe
