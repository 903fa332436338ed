#include "core/postings_kernels.h"

#include <algorithm>
#include <bit>

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define SEARCHPIPE_AVX2 1
#include <immintrin.h>
#endif

namespace searchpipe {
namespace {

constexpr std::size_t kLanes = 16;

void add_impacts_portable(float* scores, const std::uint16_t* places, const std::uint16_t* impacts,
                          std::size_t count, float weight, std::uint32_t last) noexcept {
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    float parts[kLanes];
    for (std::size_t lane = 0; lane < kLanes; ++lane) parts[lane] = weight * impacts[i + lane];
    for (std::size_t lane = 0; lane < kLanes; ++lane) scores[places[i + lane] & last] += parts[lane];
  }
  for (; i < count; ++i) scores[places[i] & last] += weight * impacts[i];
}

std::size_t count_above_portable(const float* scores, std::size_t count, float threshold) noexcept {
  std::size_t found = 0;
  for (std::size_t i = 0; i < count; ++i) found += scores[i] > threshold;
  return found;
}

std::size_t take_above_portable(float* scores, std::size_t count, float threshold, std::uint32_t first,
                                std::uint16_t* places, float* found) noexcept {
  std::size_t size = 0;
  std::size_t i = 0;
  const auto take = [&](std::size_t at) {
    if (scores[at] > threshold) {
      places[size] = static_cast<std::uint16_t>(first + at);
      found[size++] = scores[at];
    }
    scores[at] = 0.0f;
  };
  for (; i + kLanes <= count; i += kLanes) {
    int hits = 0;
    for (std::size_t lane = 0; lane < kLanes; ++lane) hits += scores[i + lane] > threshold;
    if (hits == 0) {
      std::fill(scores + i, scores + i + kLanes, 0.0f);
    } else {
      for (std::size_t lane = 0; lane < kLanes; ++lane) take(i + lane);
    }
  }
  for (; i < count; ++i) take(i);
  return size;
}

#ifdef SEARCHPIPE_AVX2
// Without FMA, so that the roundings are those of the portable loop.
__attribute__((target("avx2"))) void add_impacts_avx2(float* scores, const std::uint16_t* places,
                                                      const std::uint16_t* impacts, std::size_t count,
                                                      float weight, std::uint32_t last) noexcept {
  const __m256 factor = _mm256_set1_ps(weight);
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    alignas(32) float parts[kLanes];
    for (std::size_t half = 0; half < kLanes; half += 8) {
      const __m128i loaded = _mm_loadu_si128(reinterpret_cast<const __m128i*>(impacts + i + half));
      const __m256 wide = _mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(loaded));
      _mm256_store_ps(parts + half, _mm256_mul_ps(factor, wide));
    }
    for (std::size_t lane = 0; lane < kLanes; ++lane) scores[places[i + lane] & last] += parts[lane];
  }
  for (; i < count; ++i) scores[places[i] & last] += weight * impacts[i];
}

__attribute__((target("avx2,popcnt"))) std::size_t count_above_avx2(const float* scores, std::size_t count,
                                                                    float threshold) noexcept {
  const __m256 limit = _mm256_set1_ps(threshold);
  std::size_t found = 0;
  std::size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m256 above = _mm256_cmp_ps(_mm256_loadu_ps(scores + i), limit, _CMP_GT_OQ);
    found += static_cast<std::size_t>(__builtin_popcount(static_cast<unsigned>(_mm256_movemask_ps(above))));
  }
  for (; i < count; ++i) found += scores[i] > threshold;
  return found;
}

__attribute__((target("avx2,bmi"))) std::size_t take_above_avx2(float* scores, std::size_t count,
                                                                float threshold, std::uint32_t first,
                                                                std::uint16_t* places,
                                                                float* found) noexcept {
  const __m256 limit = _mm256_set1_ps(threshold);
  const __m256 zero = _mm256_setzero_ps();
  std::size_t size = 0;
  std::size_t i = 0;
  for (; i + 32 <= count; i += 32) {
    float* const at = scores + i;
    const __m256 a = _mm256_cmp_ps(_mm256_loadu_ps(at), limit, _CMP_GT_OQ);
    const __m256 b = _mm256_cmp_ps(_mm256_loadu_ps(at + 8), limit, _CMP_GT_OQ);
    const __m256 c = _mm256_cmp_ps(_mm256_loadu_ps(at + 16), limit, _CMP_GT_OQ);
    const __m256 d = _mm256_cmp_ps(_mm256_loadu_ps(at + 24), limit, _CMP_GT_OQ);
    const __m256 any = _mm256_or_ps(_mm256_or_ps(a, b), _mm256_or_ps(c, d));
    if (!_mm256_testz_ps(any, any)) {
      auto bits = static_cast<std::uint32_t>(_mm256_movemask_ps(a)) |
                  static_cast<std::uint32_t>(_mm256_movemask_ps(b)) << 8 |
                  static_cast<std::uint32_t>(_mm256_movemask_ps(c)) << 16 |
                  static_cast<std::uint32_t>(_mm256_movemask_ps(d)) << 24;
      for (; bits != 0; bits &= bits - 1) {
        const auto lane = static_cast<std::size_t>(__builtin_ctz(bits));
        places[size] = static_cast<std::uint16_t>(first + i + lane);
        found[size++] = at[lane];
      }
    }
    for (std::size_t lane = 0; lane < 32; lane += 8) _mm256_storeu_ps(at + lane, zero);
  }
  return size + take_above_portable(scores + i, count - i, threshold, first + static_cast<std::uint32_t>(i),
                                    places + size, found + size);
}

bool has_avx2() noexcept {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("popcnt");
}

const bool kAvx2 = has_avx2();
#endif

// Index of the first of the `count` (at least 1) ascending places that is not below `place`. Without
// branches: where it ends nobody can guess, and searches beside one another overlap.
inline std::size_t lower_bound(const std::uint16_t* places, std::size_t count, std::uint16_t place) noexcept {
  std::size_t low = 0;
  while (count > 1) {
    const std::size_t half = count / 2;
    low += half & (std::size_t{0} - (places[low + half - 1] < place));
    count -= half;
  }
  return low + (places[low] < place);
}

// Where in a run a place is: its documents are spread over the block more or less evenly, so that it is near
// its share of the run. The number of documents before it deviates from that by at most
// sqrt(count * (1 - count / 65536)) / 2, were they drawn at random; the window reaches twice as far.
class NearSearch {
 public:
  NearSearch(const std::uint16_t* places, std::size_t count) : places_(places), count_(count) {
    constexpr std::size_t kBlock = 65536;
    const std::size_t variance = count * (kBlock - std::min(count, kBlock)) / kBlock;
    reach_ = std::max<std::size_t>(16, std::size_t{1} << (std::bit_width(variance) + 1) / 2);
    width_ = std::min(2 * reach_, count);
  }

  // Begin of the window in which `place` is most likely, for find(); what find() will read is on its way.
  std::size_t window(std::uint16_t place) const noexcept {
    const std::size_t guess = std::size_t{place} * count_ >> 16;
    const std::size_t low = std::min(guess > reach_ ? guess - reach_ : 0, count_ - width_);
#if defined(__GNUC__) || defined(__clang__)
    for (std::size_t i = 0; i <= width_; i += kLine) __builtin_prefetch(places_ + low + i);
#endif
    return low;
  }

  // Index of the first place that is not below `place`, count if there is none.
  std::size_t find(std::uint16_t place, std::size_t low) const noexcept {
    if (count_ == 0) return 0;
    const std::size_t at = low + lower_bound(places_ + low, width_, place);
    const bool inside = (at > low || low == 0) && (at < low + width_ || at == count_);
    if (inside || (at == low && places_[low - 1] < place) || (at == low + width_ && places_[at] >= place)) {
      return at;
    }
    return lower_bound(places_, count_, place);
  }

 private:
  static constexpr std::size_t kLine = 32;  // places in a line of the cache

  const std::uint16_t* places_;
  std::size_t count_;
  std::size_t reach_;
  std::size_t width_;
};

}  // namespace

void add_impacts(float* scores, const std::uint16_t* places, const std::uint16_t* impacts, std::size_t count,
                 float weight, std::uint32_t last) noexcept {
#ifdef SEARCHPIPE_AVX2
  if (kAvx2) return add_impacts_avx2(scores, places, impacts, count, weight, last);
#endif
  add_impacts_portable(scores, places, impacts, count, weight, last);
}

std::size_t count_above(const float* scores, std::size_t count, float threshold) noexcept {
#ifdef SEARCHPIPE_AVX2
  if (kAvx2) return count_above_avx2(scores, count, threshold);
#endif
  return count_above_portable(scores, count, threshold);
}

std::size_t take_above(float* scores, std::size_t count, float threshold, std::uint32_t first,
                       std::uint16_t* places, float* found) noexcept {
#ifdef SEARCHPIPE_AVX2
  if (kAvx2) return take_above_avx2(scores, count, threshold, first, places, found);
#endif
  return take_above_portable(scores, count, threshold, first, places, found);
}

std::size_t take_listed(float* scores, const std::uint16_t* listed, std::size_t count, float threshold,
                        std::uint32_t first, std::uint32_t size, std::uint32_t last, std::uint16_t* places,
                        float* found) noexcept {
  std::size_t taken = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint16_t place = listed[i];
    float& score = scores[place & last];
    places[taken] = place;
    found[taken] = score;
    taken += static_cast<std::size_t>(score > threshold) & static_cast<std::size_t>(place - first < size);
    score = 0.0f;
  }
  return taken;
}

void clear_listed(float* scores, const std::uint16_t* listed, std::size_t count,
                  std::uint32_t last) noexcept {
  for (std::size_t i = 0; i < count; ++i) scores[listed[i] & last] = 0.0f;
}

std::size_t place_from(const std::uint16_t* places, std::size_t count, std::uint16_t place) noexcept {
  const NearSearch search(places, count);
  return search.find(place, search.window(place));
}

std::size_t add_looked_up(const std::uint16_t* places, const std::uint16_t* impacts, std::size_t count,
                          float weight, float threshold, std::uint16_t* wanted, float* found,
                          std::size_t size) noexcept {
  // Nearly every access misses the caches; so many are under way at once.
  constexpr std::size_t kAtOnce = 32;
  const NearSearch search(places, count);
  std::size_t at[kAtOnce];
  std::size_t kept = 0;
  for (std::size_t begin = 0; begin < size; begin += kAtOnce) {
    const std::size_t batch = std::min(kAtOnce, size - begin);
    for (std::size_t i = 0; i < batch; ++i) at[i] = search.window(wanted[begin + i]);
    for (std::size_t i = 0; i < batch; ++i) {
      at[i] = std::min(search.find(wanted[begin + i], at[i]), count - 1);
#if defined(__GNUC__) || defined(__clang__)
      __builtin_prefetch(impacts + at[i]);
#endif
    }
    for (std::size_t i = 0; i < batch; ++i) {
      const std::uint16_t place = wanted[begin + i];
      const float part = weight * impacts[at[i]];
      const float score = found[begin + i] + (places[at[i]] == place ? part : 0.0f);
      wanted[kept] = place;
      found[kept] = score;
      kept += score > threshold;
    }
  }
  return kept;
}

}  // namespace searchpipe
