#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace searchpipe {

// Predicts the seconds of a step from the steps seen so far, by stage and size. Any thread may call anything.
//
// Sizes (tokens, rows: whatever drives the stage's cost) fall into buckets of half an octave. A bucket keeps
// exponentially weighted estimates that rise faster than they fall, because a prediction that is too low
// makes an answer late while one that is too high only gives up a candidate. A size without a bucket is read
// off the nearest one: scaled up in proportion, and taken as it stands for smaller sizes, which is the
// cautious side of a fixed cost. The first steps of a process are slow (cold caches, first allocations), so
// until a bucket has seen a few, one that takes less than half replaces what was known. After that an
// observation counts as four times the mean at most: one stall is no trend.
class CostModel {
 public:
  struct Settings {
    double rise = 0.4;    // weight of a new observation above the mean, 0 < rise <= 1
    double fall = 0.1;    // and below it
    double margin = 2.0;  // mean absolute deviations added by `predict`
  };

  struct Typical {
    std::string stage;
    double size;
    double seconds;  // mean
  };

  explicit CostModel(const Settings& settings) : settings_(settings) {}

  // Learns that a step of `size` took `seconds`; ignores sizes and times that are not possible.
  void observe(std::string_view stage, double size, double seconds);

  // Cautious seconds for a step of `size`, or nothing for a stage that has not run yet. Throws
  // std::invalid_argument for a size that is not finite.
  std::optional<double> predict(std::string_view stage, double size) const;

  // How many items of `size_of_one` fit into `seconds`: 0 to `limit`. An unknown stage gets one item, to
  // learn from. Throws as `predict`.
  std::int64_t largest_within(std::string_view stage, double size_of_one, std::int64_t limit,
                              double seconds) const;

  // Forgets a tenth of what a refused step was thought to cost, at most once a second on the clock of `now`,
  // which is in seconds. Throws as `predict`.
  void relax(std::string_view stage, double size, double now);

  // Of every bucket, by stage and size.
  std::vector<Typical> typical() const;

 private:
  struct Bucket {
    double size;
    double mean;       // seconds
    double deviation;  // mean absolute, seconds
    std::int64_t seen = 1;
    double relaxed_at = -std::numeric_limits<double>::infinity();
  };
  using Buckets = std::map<int, Bucket>;  // by half octaves of the size

  double cautious(const Buckets& buckets, double size) const;

  const Settings settings_;
  mutable std::mutex mutex_;
  std::map<std::string, Buckets, std::less<>> stages_;
};

}  // namespace searchpipe
