#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/vector_kernels.h"

namespace searchpipe {

// Cosines between the rows of a matrix and the rows picked so far. Norms are computed when a row is first
// asked for: rows that never come into question are never read.
//
// Rows need no normalisation. A row without a direction (all zeros, or with a NaN or an infinity in it) has
// cosine 0 with every row. Any other finite row counts, however large or small its norm.
//
// One thread at a time.
class Directions {
 public:
  // `vectors`: float32 (size, dim), row-major, borrowed. With `rows`, int32 (size), borrowed, `vectors` may
  // have any number of rows, and row i here is row rows[i] there.
  Directions(const float* vectors, std::size_t size, std::size_t dim, const std::int32_t* rows = nullptr)
      : vectors_(vectors), dim_(dim), rows_(rows), scales_(size, kUnknown) {}

  std::size_t size() const { return scales_.size(); }
  std::size_t dim() const { return dim_; }

  // False for a row that is similar to nothing.
  bool has_direction(std::size_t row) { return scale(row) != kNone; }

  // Makes `row` the next pick; picks are numbered from 0.
  void pick(std::size_t row);

  // Cosine of `row` with pick number `pick`, in [-1, 1] up to rounding, never NaN.
  float cosine(std::size_t row, std::size_t pick) {
    const float factor = scale(row);
    if (factor > 0.0f) return finite(dot(vector(row), picked_.data() + pick * dim_, dim_) * factor);
    return factor == kNone ? 0.0f : cosine_wide(row, pick);
  }

 private:
  // What scales_ holds besides 1 / norm.
  static constexpr float kNone = 0.0f;
  static constexpr float kUnknown = -1.0f;
  static constexpr float kWide = -2.0f;  // squares leave the range of float32

  // The caller may change the matrix while we read it; a NaN must not reach a comparison.
  static float finite(float value) { return value >= -2.0f && value <= 2.0f ? value : 0.0f; }

  const float* vector(std::size_t row) const {
    return vectors_ + (rows_ == nullptr ? row : static_cast<std::size_t>(rows_[row])) * dim_;
  }
  float scale(std::size_t row) {
    if (scales_[row] == kUnknown) scales_[row] = find_scale(row);
    return scales_[row];
  }
  float find_scale(std::size_t row) const;
  float cosine_wide(std::size_t row, std::size_t pick) const;

  const float* vectors_;
  std::size_t dim_;
  const std::int32_t* rows_;
  std::vector<float> scales_;
  std::vector<float> picked_;  // unit rows, (picks, dim)
};

}  // namespace searchpipe
