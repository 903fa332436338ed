#include "core/candidates.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <numeric>
#include <stdexcept>

#include "core/document_numbers.h"
#include "core/message.h"
#include "core/score_order.h"

namespace searchpipe {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

void check_parallel(std::size_t a, std::size_t b, const char* what) {
  if (a != b)
    throw std::invalid_argument(message(what, ": ", a, " and ", b, " values; both must be parallel"));
}

// Least and largest of the finite values, and whether all are finite.
template <class T>
struct Range {
  T low = std::numeric_limits<T>::infinity();
  T high = -std::numeric_limits<T>::infinity();
  bool whole = true;
};

template <class T>
Range<T> range_of(std::span<const T> column) {
  constexpr std::size_t kLanes = 4;  // a comparison need not wait for the one before
  std::array<Range<T>, kLanes> lanes;
  const auto add = [](Range<T>& range, T value) {
    const bool finite = std::abs(value) <= std::numeric_limits<T>::max();
    const T low = finite ? value : std::numeric_limits<T>::infinity();
    const T high = finite ? value : -std::numeric_limits<T>::infinity();
    range.low = low < range.low ? low : range.low;
    range.high = high > range.high ? high : range.high;
    range.whole &= finite;
  };
  std::size_t i = 0;
  for (; i + kLanes <= column.size(); i += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) add(lanes[lane], column[i + lane]);
  }
  for (; i < column.size(); ++i) add(lanes[0], column[i]);
  Range<T> range;
  for (const Range<T>& lane : lanes) {
    range = {std::min(range.low, lane.low), std::max(range.high, lane.high), range.whole && lane.whole};
  }
  return range;
}

template <class T>
void scale(std::span<const T> column, std::span<float> out) {
  check_parallel(column.size(), out.size(), "column and out");
  const Range<T> found = range_of(column);
  const T low = found.low, range = found.high - found.low;
  const bool equal = found.high <= found.low;
  if (found.whole && !equal) {  // without a branch, so that the loop runs in vectors
    for (std::size_t i = 0; i < column.size(); ++i) out[i] = static_cast<float>((column[i] - low) / range);
    return;
  }
  for (std::size_t i = 0; i < column.size(); ++i) {
    out[i] = !std::isfinite(column[i]) ? 0.0F : equal ? 1.0F : static_cast<float>((column[i] - low) / range);
  }
}

}  // namespace

bool all_finite(std::span<const float> values) {
  constexpr std::uint32_t kExponent = 0x7F800000;
  bool bad = false;  // no early end, so that the loop runs in vectors
  for (const float value : values) bad |= (std::bit_cast<std::uint32_t>(value) & kExponent) == kExponent;
  return !bad;
}

std::vector<std::int32_t> best_first(std::span<const float> scores) { return places_by_score(scores); }

RankedDocuments ranked(std::span<const std::int64_t> ids, std::span<const float> scores, std::size_t limit,
                       std::int32_t count) {
  check_parallel(ids.size(), scores.size(), "ids and scores");
  // Sorted by document, then stably by score: places, because -0 and NaN are not to be had back from a key.
  std::vector<std::size_t> places;
  places.reserve(ids.size());
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < count) places.push_back(i);
  }
  const auto key_of = [&](std::size_t place) { return descending_key(scores[place]); };
  const auto precedes = [&](std::size_t a, std::size_t b) {
    const std::uint32_t one = key_of(a), other = key_of(b);
    return one != other ? one < other : ids[a] < ids[b];
  };
  const bool in_order =
      std::is_sorted(places.begin(), places.end(), precedes);  // as an exact index gives them
  const auto sort_by = [&](auto key) {
    std::vector<std::uint32_t> keys(places.size());
    std::transform(places.begin(), places.end(), keys.begin(), key);
    const std::vector<std::size_t> before = places;
    const std::vector<std::int32_t> order = places_by_key(keys);
    std::transform(order.begin(), order.end(), places.begin(),
                   [&](std::int32_t at) { return before[static_cast<std::size_t>(at)]; });
  };
  if (!in_order) {
    sort_by([&](std::size_t place) { return static_cast<std::uint32_t>(ids[place]); });
    sort_by(key_of);
  }
  places.resize(std::min(places.size(), limit));
  RankedDocuments found;
  found.docs.reserve(places.size());
  found.scores.reserve(places.size());
  for (const std::size_t place : places) {
    found.docs.push_back(static_cast<std::int32_t>(ids[place]));
    found.scores.push_back(scores[place]);
  }
  return found;
}

void scale_to_unit(std::span<const float> column, std::span<float> out) { scale(column, out); }

void scale_to_unit(std::span<const double> column, std::span<float> out) { scale(column, out); }

void odds_against(std::span<const float> logits, float temperature, std::span<float> out) {
  constexpr float kMost = 30.0F;
  check_parallel(logits.size(), out.size(), "logits and out");
  const float divisor = -temperature;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const float odds = logits[i] / divisor;
    out[i] = odds < -kMost ? -kMost : odds > kMost ? kMost : odds;
  }
  for (float& odds : out) odds = std::exp(odds);
}

Blend blend_opinion(std::span<const float> logits, std::span<const float> odds_against,
                    std::span<const float> prior, float weight, std::size_t count) {
  check_parallel(logits.size(), odds_against.size(), "logits and odds_against");
  check_parallel(logits.size(), prior.size(), "logits and prior");
  if (logits.size() > count) {
    throw std::invalid_argument(message(logits.size(), " logits for ", count, " candidates"));
  }
  const std::size_t given = logits.size();
  Blend blend{std::vector<float>(count, kNaN), std::vector<float>(count), {}};
  std::copy(logits.begin(), logits.end(), blend.logits.begin());
  const bool whole = all_finite(logits);
  float least = std::numeric_limits<float>::infinity();
  for (std::size_t i = 0; i < given; ++i) {
    blend.blended[i] = weight * (1.0F / (1.0F + odds_against[i])) + prior[i];
  }
  for (std::size_t i = 0; i < given; ++i) {
    if (whole || std::isfinite(logits[i])) least = std::min(least, blend.blended[i]);
  }
  const auto all = static_cast<float>(count + 1);
  const auto behind = [&](std::size_t i) { return least * (1.0F - static_cast<float>(i + 1) / all); };
  for (std::size_t i = 0; i < given && !whole; ++i) {
    if (!std::isfinite(logits[i])) blend.blended[i] = behind(i);
  }
  for (std::size_t i = given; i < count; ++i) blend.blended[i] = behind(i);
  const std::span<const float> scored = std::span<const float>(blend.blended).first(given);
  if (whole && given < count && least > 0.0F && blend.blended[given] < least && all_finite(scored)) {
    // Those behind descend, each below all that were scored: they are in order.
    blend.order = best_first(scored);
    blend.order.resize(count);
    std::iota(blend.order.begin() + static_cast<std::ptrdiff_t>(given), blend.order.end(),
              static_cast<std::int32_t>(given));
    return blend;
  }
  blend.order = best_first(blend.blended);
  return blend;
}

std::vector<std::int32_t> places_in(std::span<const std::int32_t> docs,
                                    std::span<const std::span<const std::int32_t>> orders) {
  constexpr std::size_t kRoom = 8;  // most documents that are looked up are not there: few should collide
  DocumentNumbers numbers(kRoom * docs.size());
  std::vector<std::size_t> number_of(docs.size());
  for (std::size_t i = 0; i < docs.size(); ++i) number_of[i] = numbers.number(docs[i]);
  std::vector<std::int32_t> places(orders.size() * docs.size());
  std::vector<std::int32_t> place_of(docs.size());
  for (std::size_t i = 0; i < orders.size(); ++i) {
    std::fill(place_of.begin(), place_of.end(), 0);
    // From the last place to the first, because the first one counts.
    for (std::size_t place = orders[i].size(); place-- > 0;) {
      const std::size_t number = numbers.find(orders[i][place]);
      if (number != DocumentNumbers::kNone) place_of[number] = static_cast<std::int32_t>(place + 1);
    }
    for (std::size_t j = 0; j < docs.size(); ++j) places[i * docs.size() + j] = place_of[number_of[j]];
  }
  return places;
}

std::vector<std::int32_t> moved_to_front(std::span<const std::int32_t> first, std::size_t count) {
  std::vector<std::int32_t> order(count);
  std::vector<bool> taken(count);
  std::size_t size = 0, end = 0;  // of `order`; behind the last place that was taken
  for (const std::int32_t place : first) {
    if (place < 0 || static_cast<std::size_t>(place) >= count) {
      throw std::out_of_range(message("place ", place, " is outside of 0..", count, " candidates"));
    }
    const auto at = static_cast<std::size_t>(place);
    if (taken[at]) throw std::invalid_argument(message("place ", place, " is there twice"));
    taken[at] = true;
    order[size++] = place;
    end = std::max(end, at + 1);
  }
  for (std::size_t place = 0; place < end; ++place) {
    if (!taken[place]) order[size++] = static_cast<std::int32_t>(place);
  }
  std::iota(order.begin() + static_cast<std::ptrdiff_t>(size), order.end(), static_cast<std::int32_t>(end));
  return order;
}

}  // namespace searchpipe
