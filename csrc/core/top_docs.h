#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

namespace searchpipe {

// The best k of documents, each pushed once; equal scores by ordinal. One thread at a time.
class TopDocs {
 public:
  explicit TopDocs(std::size_t k) : k_(k) {}

  // No document after all that were pushed can still get among the best unless its score is above it; 0 as
  // long as there are fewer than k.
  float threshold() const { return threshold_; }

  // `score` is above 0.
  void push(std::uint32_t doc, float score) {
    // Positive floats are ordered as their bits are; of equal ones the smaller ordinal is the larger key.
    const std::uint64_t key = std::uint64_t{std::bit_cast<std::uint32_t>(score)} << 32 | (0xFFFFFFFFu - doc);
    if (key <= worst_) return;
    keys_.push_back(key);
    if (keys_.size() >= 2 * k_ + kSpare) shrink();
  }

  // Raises the threshold to what is known by now, where that is likely to be worth its time.
  void tighten() {
    if (keys_.size() > k_ + k_ / kWorthwhile || (keys_.size() >= k_ && worst_ == 0)) shrink();
  }

  // Documents that take() will give.
  std::size_t size() const { return std::min(keys_.size(), k_); }

  // Best first.
  template <class Take>
  void take(Take&& take) {
    if (keys_.size() > k_) shrink();
    std::sort(keys_.begin(), keys_.end(), std::greater<>());
    for (const std::uint64_t key : keys_) {
      take(0xFFFFFFFFu - static_cast<std::uint32_t>(key), score_of(key));
    }
  }

 private:
  // So that few are not sorted again and again.
  static constexpr std::size_t kSpare = 64;
  // A share of k: the threshold of so few more rises little.
  static constexpr std::size_t kWorthwhile = 4;

  static float score_of(std::uint64_t key) {
    return std::bit_cast<float>(static_cast<std::uint32_t>(key >> 32));
  }

  // Keeps the k largest of at least k keys. Quickselect (Hoare 1961) whose partition (Lomuto's) has no branch
  // that depends on the keys: of those that a processor guesses wrong, std::nth_element has many.
  void shrink() {
    std::uint64_t* const keys = keys_.data();
    std::size_t begin = 0;
    std::size_t end = keys_.size();
    while (end - begin > 1) {
      std::swap(keys[end - 1], keys[median(begin, begin + (end - begin) / 2, end - 1)]);
      const std::uint64_t pivot = keys[end - 1];
      std::size_t larger = begin;
      for (std::size_t i = begin; i < end - 1; ++i) {
        const std::uint64_t key = keys[i];
        keys[i] = keys[larger];
        keys[larger] = key;
        larger += key > pivot;
      }
      std::swap(keys[larger], keys[end - 1]);
      if (larger == k_ - 1) break;
      larger < k_ ? begin = larger + 1 : end = larger;
    }
    keys_.resize(k_);
    worst_ = keys[k_ - 1];
    threshold_ = score_of(worst_);
  }

  // Which of the three keys is neither the largest nor the smallest.
  std::size_t median(std::size_t a, std::size_t b, std::size_t c) const {
    if (keys_[a] > keys_[b]) std::swap(a, b);
    if (keys_[b] > keys_[c]) std::swap(b, c);
    return keys_[a] > keys_[b] ? a : b;
  }

  std::size_t k_;            // at least 1
  std::uint64_t worst_ = 0;  // of the best k, once there are so many
  float threshold_ = 0.0f;
  std::vector<std::uint64_t> keys_;
};

}  // namespace searchpipe
