#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <vector>

namespace searchpipe {

// Unsigned numbers that are ordered as the scores from the largest down, NaN last. -0 and 0 are equal.
// Without a branch, so that loops run in vectors.
inline std::uint32_t descending_key(float score) {
  constexpr std::uint32_t kSign = 0x80000000, kInfinity = 0x7F800000;
  const auto bits = std::bit_cast<std::uint32_t>(score + 0.0F);  // -0 + 0 is 0
  const std::uint32_t negative = 0U - (bits >> 31);
  const std::uint32_t nan = (bits & ~kSign) > kInfinity ? std::numeric_limits<std::uint32_t>::max() : 0;
  return ~(bits ^ (negative | kSign)) | nan;
}

namespace score_order {

constexpr int kDigitBits = 8;
constexpr std::size_t kDigits = 1 << kDigitBits;

inline void sort_places(std::vector<std::int32_t>& places, std::span<const std::uint32_t> keys) {
  std::sort(places.begin(), places.end(), [&](std::int32_t a, std::int32_t b) {
    const std::uint32_t one = keys[static_cast<std::size_t>(a)], other = keys[static_cast<std::size_t>(b)];
    return one != other ? one < other : a < b;
  });
}

// By radix on the 16 leading ones of the bits that differ, after which few are out of place: some hundreds of
// keys in a fifth of the time of std::sort, whose branches are guessed wrong half of the time. An Item holds
// these 16 bits in its upper half and a place in the lower. Places are sorted as they are, ascending, before.
template <class Item>
void radix_sort_places(std::vector<std::int32_t>& places, std::span<const std::uint32_t> keys,
                       int differing) {
  constexpr int kHalf = 4 * sizeof(Item);
  constexpr Item kPlace = (Item{1} << kHalf) - 1;
  const std::size_t size = keys.size();
  const int shift = std::max(0, differing - 2 * kDigitBits);
  std::array<std::array<std::uint32_t, kDigits>, 2> starts{};
  std::vector<Item> items(size), other(size);
  for (std::size_t i = 0; i < size; ++i) {
    const std::uint32_t leading = keys[i] >> shift & 0xFFFF;
    items[i] = static_cast<Item>(static_cast<Item>(leading) << kHalf | static_cast<Item>(i));
    ++starts[0][leading & (kDigits - 1)];
    ++starts[1][leading >> kDigitBits];
  }
  int from = kHalf;
  for (auto& digit : starts) {
    std::uint32_t sum = 0;
    for (std::uint32_t& start : digit) {
      const std::uint32_t count = start;
      start = sum;
      sum += count;
    }
    for (const Item item : items) other[digit[item >> from & (kDigits - 1)]++] = item;
    items.swap(other);
    from += kDigitBits;
  }
  // What differs in later bits alone is put in place by insertion, unless that is much.
  std::size_t moves = 8 * size;
  places[0] = static_cast<std::int32_t>(items[0] & kPlace);
  for (std::size_t i = 1; i < size; ++i) {
    const auto place = static_cast<std::size_t>(items[i] & kPlace);
    std::size_t at = i;
    if (items[i - 1] >> kHalf == items[i] >> kHalf) {
      const std::uint32_t key = keys[place];
      for (; at > 0 && keys[static_cast<std::size_t>(places[at - 1])] > key; --at)
        places[at] = places[at - 1];
      if (i - at > moves) {
        std::iota(places.begin(), places.end(), 0);
        sort_places(places, keys);
        return;
      }
      moves -= i - at;
    }
    places[at] = static_cast<std::int32_t>(place);
  }
}

}  // namespace score_order

// Places of the keys from the smallest up; equal ones keep their order.
inline std::vector<std::int32_t> places_by_key(std::span<const std::uint32_t> keys) {
  constexpr std::size_t kFew = 48;
  std::vector<std::int32_t> places(keys.size());
  std::iota(places.begin(), places.end(), 0);
  if (keys.size() < kFew) {
    score_order::sort_places(places, keys);
    return places;
  }
  std::uint32_t any = 0, all = ~std::uint32_t{0};
  for (const std::uint32_t key : keys) {
    any |= key;
    all &= key;
  }
  const int differing = std::bit_width(any ^ all);
  if (keys.size() <= std::size_t{1} << 16) {
    score_order::radix_sort_places<std::uint32_t>(places, keys, differing);
  } else {
    score_order::radix_sort_places<std::uint64_t>(places, keys, differing);
  }
  return places;
}

// Places of the scores from the largest down; equal ones keep their order, NaN come last.
inline std::vector<std::int32_t> places_by_score(std::span<const float> scores) {
  std::vector<std::uint32_t> keys(scores.size());
  std::transform(scores.begin(), scores.end(), keys.begin(), descending_key);
  return places_by_key(keys);
}

}  // namespace searchpipe
