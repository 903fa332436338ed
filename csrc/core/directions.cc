#include "core/directions.h"

#include <algorithm>
#include <cmath>

namespace searchpipe {

float Directions::find_scale(std::size_t row) const {
  const float* const values = vector(row);
  // Within these bounds neither the squares lose precision as subnormals nor a sum of them overflows.
  constexpr float kLeast = 1e-24f, kMost = 1e30f;
  const float square = dot(values, values, dim_);
  if (square >= kLeast && square <= kMost) return 1.0f / std::sqrt(square);
  const double wide = dot_wide(values, values, dim_);
  return std::isfinite(wide) && wide > 0.0 ? kWide : kNone;
}

void Directions::pick(std::size_t row) {
  const float* const values = vector(row);
  const float factor = scale(row);
  // A page's picks without growing. std::vector then grows geometrically: the caller's k may be far beyond
  // what is ever picked.
  constexpr std::size_t kPage = 16, kMostFloats = std::size_t{1} << 14;
  if (picked_.empty()) picked_.reserve(std::min(kPage * dim_, std::max(kMostFloats, dim_)));
  picked_.resize(picked_.size() + dim_);
  float* unit = picked_.data() + picked_.size() - dim_;
  if (factor == kNone) return;
  if (factor > 0.0f) {
    for (std::size_t i = 0; i < dim_; ++i) unit[i] = values[i] * factor;
    return;
  }
  const double wide = 1.0 / std::sqrt(dot_wide(values, values, dim_));
  for (std::size_t i = 0; i < dim_; ++i) unit[i] = static_cast<float>(values[i] * wide);
}

float Directions::cosine_wide(std::size_t row, std::size_t pick) const {
  const float* const values = vector(row);
  const double norm = std::sqrt(dot_wide(values, values, dim_));
  return finite(static_cast<float>(dot_wide(values, picked_.data() + pick * dim_, dim_) / norm));
}

}  // namespace searchpipe
