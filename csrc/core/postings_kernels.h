#pragma once

#include <cstddef>
#include <cstdint>

namespace searchpipe {

// scores[places[i]] += weight * impacts[i]. Places are distinct. Adds in the same order and with the same
// roundings on every processor of an architecture.
void add_impacts(float* scores, const std::uint16_t* places, const std::uint16_t* impacts, std::size_t count,
                 float weight) noexcept;

// Writes the places of all scores above `threshold` to `places`, ascending, and returns how many there are.
std::size_t places_above(const float* scores, std::size_t count, float threshold,
                         std::uint16_t* places) noexcept;

}  // namespace searchpipe
