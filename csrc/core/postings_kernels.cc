#include "core/postings_kernels.h"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define SEARCHPIPE_AVX2 1
#include <immintrin.h>
#endif

namespace searchpipe {
namespace {

constexpr std::size_t kLanes = 16;

void add_impacts_portable(float* scores, const std::uint16_t* places, const std::uint16_t* impacts,
                          std::size_t count, float weight) noexcept {
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    float parts[kLanes];
    for (std::size_t lane = 0; lane < kLanes; ++lane) parts[lane] = weight * impacts[i + lane];
    for (std::size_t lane = 0; lane < kLanes; ++lane) scores[places[i + lane]] += parts[lane];
  }
  for (; i < count; ++i) scores[places[i]] += weight * impacts[i];
}

std::size_t places_above_portable(const float* scores, std::size_t count, float threshold,
                                  std::uint16_t* places) noexcept {
  std::size_t found = 0;
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    int hits = 0;
    for (std::size_t lane = 0; lane < kLanes; ++lane) hits += scores[i + lane] > threshold;
    if (hits == 0) continue;
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      if (scores[i + lane] > threshold) places[found++] = static_cast<std::uint16_t>(i + lane);
    }
  }
  for (; i < count; ++i) {
    if (scores[i] > threshold) places[found++] = static_cast<std::uint16_t>(i);
  }
  return found;
}

#ifdef SEARCHPIPE_AVX2
// Without FMA, so that the roundings are those of the portable loop.
__attribute__((target("avx2"))) void add_impacts_avx2(float* scores, const std::uint16_t* places,
                                                      const std::uint16_t* impacts, std::size_t count,
                                                      float weight) noexcept {
  const __m256 factor = _mm256_set1_ps(weight);
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    alignas(32) float parts[kLanes];
    for (std::size_t half = 0; half < kLanes; half += 8) {
      const __m128i loaded = _mm_loadu_si128(reinterpret_cast<const __m128i*>(impacts + i + half));
      const __m256 wide = _mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(loaded));
      _mm256_store_ps(parts + half, _mm256_mul_ps(factor, wide));
    }
    for (std::size_t lane = 0; lane < kLanes; ++lane) scores[places[i + lane]] += parts[lane];
  }
  for (; i < count; ++i) scores[places[i]] += weight * impacts[i];
}

__attribute__((target("avx2"))) std::size_t places_above_avx2(const float* scores, std::size_t count,
                                                              float threshold,
                                                              std::uint16_t* places) noexcept {
  const __m256 limit = _mm256_set1_ps(threshold);
  std::size_t found = 0;
  std::size_t i = 0;
  for (; i + 32 <= count; i += 32) {
    const __m256 a = _mm256_cmp_ps(_mm256_loadu_ps(scores + i), limit, _CMP_GT_OQ);
    const __m256 b = _mm256_cmp_ps(_mm256_loadu_ps(scores + i + 8), limit, _CMP_GT_OQ);
    const __m256 c = _mm256_cmp_ps(_mm256_loadu_ps(scores + i + 16), limit, _CMP_GT_OQ);
    const __m256 d = _mm256_cmp_ps(_mm256_loadu_ps(scores + i + 24), limit, _CMP_GT_OQ);
    const __m256 any = _mm256_or_ps(_mm256_or_ps(a, b), _mm256_or_ps(c, d));
    if (_mm256_testz_ps(any, any)) continue;
    auto bits = static_cast<std::uint32_t>(_mm256_movemask_ps(a)) |
                static_cast<std::uint32_t>(_mm256_movemask_ps(b)) << 8 |
                static_cast<std::uint32_t>(_mm256_movemask_ps(c)) << 16 |
                static_cast<std::uint32_t>(_mm256_movemask_ps(d)) << 24;
    for (; bits != 0; bits &= bits - 1) {
      places[found++] = static_cast<std::uint16_t>(i + static_cast<std::size_t>(__builtin_ctz(bits)));
    }
  }
  for (; i < count; ++i) {
    if (scores[i] > threshold) places[found++] = static_cast<std::uint16_t>(i);
  }
  return found;
}

bool has_avx2() noexcept {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2");
}

const bool kAvx2 = has_avx2();
#endif

}  // namespace

void add_impacts(float* scores, const std::uint16_t* places, const std::uint16_t* impacts, std::size_t count,
                 float weight) noexcept {
#ifdef SEARCHPIPE_AVX2
  if (kAvx2) return add_impacts_avx2(scores, places, impacts, count, weight);
#endif
  add_impacts_portable(scores, places, impacts, count, weight);
}

std::size_t places_above(const float* scores, std::size_t count, float threshold,
                         std::uint16_t* places) noexcept {
#ifdef SEARCHPIPE_AVX2
  if (kAvx2) return places_above_avx2(scores, count, threshold, places);
#endif
  return places_above_portable(scores, count, threshold, places);
}

}  // namespace searchpipe
