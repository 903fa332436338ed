#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace searchpipe {

// Unsigned numbers that are ordered as the scores from the largest down, NaN last. -0 and 0 are equal.
inline std::uint32_t descending_key(float score) {
  if (std::isnan(score)) return std::numeric_limits<std::uint32_t>::max();
  constexpr std::uint32_t kSign = 0x80000000;
  const auto bits = std::bit_cast<std::uint32_t>(score + 0.0F);  // -0 + 0 is 0
  const std::uint32_t ascending = (bits & kSign) != 0 ? ~bits : bits | kSign;
  return ~ascending;
}

// Orders by score from the largest down, then by what breaks ties, smallest first.
inline std::uint64_t order_key(float score, std::uint32_t tie) {
  return std::uint64_t{descending_key(score)} << 32 | tie;
}

inline std::int32_t tie_of(std::uint64_t key) { return static_cast<std::int32_t>(key & 0xFFFFFFFF); }

// Sorts keys whose lower halves ascend already. By radix on the 16 leading bits of the upper halves that
// differ, after which few keys are out of place: some hundreds in a tenth of the time of std::sort, whose
// branches are guessed wrong half of the time.
inline void sort_keys(std::vector<std::uint64_t>& keys) {
  constexpr std::size_t kFew = 64;
  constexpr std::size_t kDigits = 256;
  constexpr int kHalf = 32, kDigitBits = 8;
  const std::size_t size = keys.size();
  if (size < kFew) {
    std::sort(keys.begin(), keys.end());
    return;
  }
  std::uint64_t any = 0, all = ~std::uint64_t{0};
  for (const std::uint64_t key : keys) {
    any |= key;
    all &= key;
  }
  const int differing = std::bit_width((any ^ all) >> kHalf);
  const int shift = kHalf + std::max(0, differing - 2 * kDigitBits);
  std::array<std::array<std::uint32_t, kDigits>, 2> starts{};
  for (const std::uint64_t key : keys) {
    ++starts[0][key >> shift & (kDigits - 1)];
    ++starts[1][key >> (shift + kDigitBits) & (kDigits - 1)];
  }
  std::vector<std::uint64_t> other(size);
  for (int digit = 0; digit < 2 && differing > digit * kDigitBits; ++digit) {
    std::uint32_t sum = 0;
    for (std::uint32_t& start : starts[static_cast<std::size_t>(digit)]) {
      const std::uint32_t count = start;
      start = sum;
      sum += count;
    }
    const int from = shift + digit * kDigitBits;
    auto& places = starts[static_cast<std::size_t>(digit)];
    for (const std::uint64_t key : keys) other[places[key >> from & (kDigits - 1)]++] = key;
    keys.swap(other);
  }
  if (shift == kHalf) return;
  // What differs in later bits alone is put in place by insertion, unless that is much.
  std::size_t moves = 8 * size;
  for (std::size_t i = 1; i < size; ++i) {
    const std::uint64_t key = keys[i];
    std::size_t at = i;
    for (; at > 0 && keys[at - 1] > key; --at) keys[at] = keys[at - 1];
    keys[at] = key;
    if (i - at > moves) {
      std::sort(keys.begin(), keys.end());
      return;
    }
    moves -= i - at;
  }
}

// Places of the scores from the largest down; equal ones keep their order, NaN come last.
inline std::vector<std::int32_t> places_by_score(std::span<const float> scores) {
  std::vector<std::uint64_t> keys(scores.size());
  for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = order_key(scores[i], static_cast<std::uint32_t>(i));
  sort_keys(keys);
  std::vector<std::int32_t> order(keys.size());
  std::transform(keys.begin(), keys.end(), order.begin(), tie_of);
  return order;
}

}  // namespace searchpipe
