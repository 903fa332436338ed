#pragma once

#include <cstddef>

namespace searchpipe {

// Inner products of float32 vectors. The instruction set (AVX2 + FMA, or what the target always has) is
// chosen when the library is loaded, so that one build runs on every processor of its architecture. Every
// call adds in the same order: on one machine the same input always gives the same bits.
float dot(const float* a, const float* b, std::size_t size) noexcept;

// The same in double precision, for vectors whose squares leave the range of float32.
double dot_wide(const float* a, const float* b, std::size_t size) noexcept;

}  // namespace searchpipe
