#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace searchpipe {

// Quantiles of a stream of values (latencies in seconds, or any other unit) with bounded relative error.
//
// Logarithmic buckets as in DDSketch (Masson, Rim, Lee: DDSketch, VLDB 2019): bucket i holds the values in
// (g^(i - 1), g^i] with g = (1 + e) / (1 - e), and answers 2 g^i / (g + 1), which is within e of all of them.
// The range is fixed, so that recording is one atomic addition: values from kLeast to kMost have that error,
// smaller ones (and 0) are answered as the minimum recorded, larger ones as the maximum. NaN, infinite and
// negative values are refused.
//
// Any number of threads may call everything at once; recording never blocks. What is read while others record
// is some state between the first and the last of the concurrent calls.
class Histogram {
 public:
  static constexpr double kLeast = 1e-9;
  static constexpr double kMost = 1e12;

  // 0.0001 <= relative_error <= 0.5; else std::invalid_argument.
  explicit Histogram(double relative_error);

  // Throw std::invalid_argument; of many values, none is recorded then.
  void record(double value);
  void record_many(std::span<const double> values);

  // Adds what `other` (of the same relative error, else std::invalid_argument) has recorded; `other` may be
  // this.
  void merge(const Histogram& other);

  double relative_error() const { return relative_error_; }
  std::uint64_t count() const { return count_.load(std::memory_order_relaxed); }
  double sum() const { return sum_.load(std::memory_order_relaxed); }
  // NaN where nothing was recorded.
  double min() const;
  double max() const;

  // For each point q in 0..1 an estimate of the value of rank floor(q (count - 1)), counted from 0 in
  // ascending order; NaN where nothing was recorded. All points are answered from one state.
  std::vector<double> quantiles(std::span<const double> points) const;

  // A checksummed copy of the state, for from_bytes() on a machine of the same byte order.
  std::vector<std::byte> to_bytes() const;
  // Throws std::runtime_error that says what is wrong.
  static Histogram from_bytes(std::span<const std::byte> bytes);

  Histogram(Histogram&& other) noexcept;

 private:
  struct State {
    std::vector<std::uint64_t> buckets;
    std::uint64_t count = 0;
    double sum = 0.0;
    double min = 0.0;
    double max = 0.0;
  };

  std::size_t bucket_of(double value) const;
  double estimate(std::size_t bucket) const;
  void add(const State& state);
  void widen(double least, double most);
  State state() const;

  double relative_error_;
  double log_growth_;
  // Bucket 1 is (g^(first_exponent_ - 1), g^first_exponent_]; the first and the last are for values below
  // kLeast and above kMost.
  std::int64_t first_exponent_;
  std::vector<std::atomic<std::uint64_t>> buckets_;
  std::atomic<std::uint64_t> count_{0};
  std::atomic<double> sum_{0.0};
  std::atomic<double> min_;
  std::atomic<double> max_;
};

}  // namespace searchpipe
