#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

namespace searchpipe {

// The best k of documents that come in ascending order; equal scores by ordinal. One thread at a time.
class TopDocs {
 public:
  explicit TopDocs(std::size_t k) : k_(k) {}

  // Only a score above it can still get among the best; 0 as long as there are fewer than k.
  float threshold() const { return threshold_; }

  // `score` is above the threshold.
  void push(std::uint32_t doc, float score) {
    // Positive floats are ordered as their bits are; of equal ones the smaller ordinal is the larger key.
    keys_.push_back(std::uint64_t{std::bit_cast<std::uint32_t>(score)} << 32 | (0xFFFFFFFFu - doc));
    if (keys_.size() >= 2 * k_ + kSpare) shrink();
  }

  // Raises the threshold to what is known by now.
  void tighten() {
    if (keys_.size() > k_) shrink();
  }

  // Best first.
  template <class Take>
  void take(Take&& take) {
    tighten();
    std::sort(keys_.begin(), keys_.end(), std::greater<>());
    for (const std::uint64_t key : keys_) {
      take(0xFFFFFFFFu - static_cast<std::uint32_t>(key), score_of(key));
    }
  }

 private:
  // So that few are not sorted again and again.
  static constexpr std::size_t kSpare = 64;

  static float score_of(std::uint64_t key) {
    return std::bit_cast<float>(static_cast<std::uint32_t>(key >> 32));
  }

  void shrink() {
    const auto last = keys_.begin() + static_cast<std::ptrdiff_t>(k_) - 1;
    std::nth_element(keys_.begin(), last, keys_.end(), std::greater<>());
    threshold_ = score_of(*last);
    keys_.resize(k_);
  }

  std::size_t k_;  // at least 1
  float threshold_ = 0.0f;
  std::vector<std::uint64_t> keys_;
};

}  // namespace searchpipe
