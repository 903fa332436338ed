#pragma once

#include <cstddef>
#include <cstdint>

namespace searchpipe {

// scores[places[i] & last] += weight * impacts[i]; `last` is a power of two less one, and the places are
// distinct under it. Adds in the same order and with the same roundings on every processor of an
// architecture.
void add_impacts(float* scores, const std::uint16_t* places, const std::uint16_t* impacts, std::size_t count,
                 float weight, std::uint32_t last) noexcept;

// How many scores are above `threshold`.
std::size_t count_above(const float* scores, std::size_t count, float threshold) noexcept;

// Writes the scores above `threshold` (at least 0) and `first` + their indices, ascending, to `found` and
// `places`, which have room for `count`; zeroes all scores. Returns how many there are.
std::size_t take_above(float* scores, std::size_t count, float threshold, std::uint32_t first,
                       std::uint16_t* places, float* found) noexcept;

// The same for scores[listed[i] & last] alone, in the order of the list, and for a listed place from `first`
// to below `first` + `size`. What is listed twice is found once. `places` and `found` have room for one more
// than there may be.
std::size_t take_listed(float* scores, const std::uint16_t* listed, std::size_t count, float threshold,
                        std::uint32_t first, std::uint32_t size, std::uint32_t last, std::uint16_t* places,
                        float* found) noexcept;

// Zeroes scores[listed[i] & last].
void clear_listed(float* scores, const std::uint16_t* listed, std::size_t count, std::uint32_t last) noexcept;

// Index of the first of `count` ascending places that is not below `place`, `count` if there is none.
std::size_t place_from(const std::uint16_t* places, std::size_t count, std::uint16_t place) noexcept;

// found[i] += weight * the impact of wanted[i], where it is among the `count` places of a run. Keeps, in
// their order, the entries that have more than `threshold` then, and returns how many there are.
std::size_t add_looked_up(const std::uint16_t* places, const std::uint16_t* impacts, std::size_t count,
                          float weight, float threshold, std::uint16_t* wanted, float* found,
                          std::size_t size) noexcept;

}  // namespace searchpipe
