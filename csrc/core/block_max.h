#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <vector>

namespace searchpipe {

// The largest of n values under single changes: finding it costs n/64 + 64 steps, changing a value at
// most 64. Minus infinity means "not there". One thread at a time.
class BlockMax {
 public:
  static constexpr std::size_t kNone = static_cast<std::size_t>(-1);
  static constexpr float kAbsent = -std::numeric_limits<float>::infinity();

  explicit BlockMax(const std::vector<float>& values)
      : values_((values.size() + kBlock - 1) / kBlock * kBlock, kAbsent), tops_(values_.size() / kBlock) {
    std::copy(values.begin(), values.end(), values_.begin());
    for (std::size_t block = 0; block < tops_.size(); ++block) tops_[block] = top_of(block);
  }

  float operator[](std::size_t index) const { return values_[index]; }

  void set(std::size_t index, float value) {
    const std::size_t block = index / kBlock;
    const float old = values_[index];
    values_[index] = value;
    if (value >= tops_[block]) {
      tops_[block] = value;
    } else if (old == tops_[block]) {
      tops_[block] = top_of(block);
    }
  }

  // Index of the largest value, the first of equals; kNone when all are absent.
  std::size_t argmax() const {
    float top = kAbsent;
    std::size_t best = kNone;
    for (std::size_t block = 0; block < tops_.size(); ++block) {
      if (tops_[block] > top) {
        top = tops_[block];
        best = block;
      }
    }
    if (best == kNone) return kNone;
    std::size_t start = best * kBlock;
    while (!holds(start, top)) start += kLanes;
    const float* values = values_.data();
    return static_cast<std::size_t>(std::find(values + start, values + start + kLanes, top) - values);
  }

  // Replaces, in order, every value of at least `floor` that is there by tighten(index, value, floor), which
  // returns the new value and may raise `floor`.
  template <class Tighten>
  void sweep(float floor, Tighten&& tighten) {
    for (std::size_t block = 0; block < tops_.size(); ++block) {
      if (tops_[block] < floor || tops_[block] == kAbsent) continue;
      for (std::size_t i = block * kBlock; i < (block + 1) * kBlock; ++i) {
        if (values_[i] >= floor && values_[i] != kAbsent) values_[i] = tighten(i, values_[i], floor);
      }
      tops_[block] = top_of(block);
    }
  }

 private:
  static constexpr std::size_t kBlock = 64;
  static constexpr std::size_t kLanes =
      16;  // independent of one another, so that vector registers can be used

  bool holds(std::size_t start, float value) const {
    int hits = 0;
    for (std::size_t lane = 0; lane < kLanes; ++lane) hits += values_[start + lane] == value;
    return hits > 0;
  }

  float top_of(std::size_t block) const {
    const float* values = values_.data() + block * kBlock;
    float tops[kLanes];
    std::copy(values, values + kLanes, tops);
    for (std::size_t i = kLanes; i < kBlock; i += kLanes) {
      for (std::size_t lane = 0; lane < kLanes; ++lane) {
        tops[lane] = tops[lane] > values[i + lane] ? tops[lane] : values[i + lane];
      }
    }
    float top = tops[0];
    for (std::size_t lane = 1; lane < kLanes; ++lane) top = top > tops[lane] ? top : tops[lane];
    return top;
  }

  std::vector<float> values_;
  std::vector<float> tops_;
};

}  // namespace searchpipe
