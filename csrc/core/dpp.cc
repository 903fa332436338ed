#include "core/dpp.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

#include "core/directions.h"

namespace searchpipe {
namespace {

// A squared residual below this is rounding, or a difference that no shopper sees (an angle of 0.6 degrees).
// A pivot this short magnifies the rounding of a cosine (1e-7) to about 1e-5: still an order of magnitude
// below.
constexpr float kLeastResidual = 1e-4f;

std::vector<float> weighted_z_scores(const float* relevance, std::size_t size, double weight) {
  double mean = 0.0;
  for (std::size_t i = 0; i < size; ++i) mean += relevance[i];
  mean /= static_cast<double>(size);
  double variance = 0.0;
  for (std::size_t i = 0; i < size; ++i) variance += (relevance[i] - mean) * (relevance[i] - mean);
  const double deviation = std::sqrt(variance / static_cast<double>(size));
  // Equal values whose mean was rounded leave a deviation that is nothing but that rounding.
  const double noise = 1e-12 * std::abs(mean);
  std::vector<float> out(size, 0.0f);
  for (std::size_t i = 0; i < size && deviation > noise; ++i) {
    out[i] = static_cast<float>(weight * ((relevance[i] - mean) / deviation));
  }
  return out;
}

class DppObjective : public GreedyObjective {
 public:
  DppObjective(const float* relevance, const float* vectors, std::size_t size, std::size_t dim, std::size_t k,
               double trade_off, const std::int32_t* rows)
      : directions_(vectors, size, dim, rows),
        worth_(weighted_z_scores(relevance, size, trade_off)),
        novelty_weight_(static_cast<float>(1.0 - trade_off)),
        residuals_(size, 1.0f),
        seen_(size, 0),
        most_columns_(std::min({k, size, dim})),
        // Not initialised on purpose: only the pages of candidates that come into question become resident.
        components_(new float[size * most_columns_]) {}

  const std::vector<float>& initial() const override { return worth_; }

  bool is_current(std::size_t candidate) const override {
    return seen_[candidate] >= pivots_.size() || novelty_weight_ == 0.0f;
  }

  float tighten(std::size_t candidate, float floor) override {
    float value = value_of(candidate);
    float* components = row(candidate);
    while (seen_[candidate] < pivots_.size() && value >= floor) {
      const std::uint32_t column = seen_[candidate]++;
      const Pivot& pivot = pivots_[column];
      const float* others = row(pivot.candidate);
      float inside = 0.0f;  // of the pivots before: mostly a handful, for which a plain loop is faster
      if (column > 16) {
        inside = dot(others, components, column);
      } else {
        for (std::uint32_t before = 0; before < column; ++before)
          inside += others[before] * components[before];
      }
      const float component = (directions_.cosine(candidate, column) - inside) * pivot.inverse_length;
      components[column] = component;
      residuals_[candidate] -= component * component;
      value = value_of(candidate);
      if (residuals_[candidate] <= kLeastResidual) seen_[candidate] = kNothingNew;
    }
    return value;
  }

  void pick(std::size_t candidate) override {
    // A candidate with nothing new, or one orthogonal to all others, changes no residual.
    if (novelty_weight_ == 0.0f || residuals_[candidate] <= kLeastResidual) return;
    if (pivots_.size() == most_columns_ || !directions_.has_direction(candidate)) return;
    directions_.pick(candidate);
    pivots_.push_back({candidate, 1.0f / std::sqrt(residuals_[candidate])});
  }

 private:
  static constexpr std::uint32_t kNothingNew = std::numeric_limits<std::uint32_t>::max();

  // A pick that spans a new direction; its place in pivots_ is the number of its column.
  struct Pivot {
    std::size_t candidate;
    float inverse_length;  // of its part outside the span of the pivots before
  };

  float value_of(std::size_t candidate) const {
    return worth_[candidate] + novelty_weight_ * std::log(std::max(residuals_[candidate], kLeastResidual));
  }
  float* row(std::size_t candidate) { return components_.get() + candidate * most_columns_; }

  Directions directions_;
  std::vector<float> worth_;  // trade_off * z
  float novelty_weight_;
  std::vector<float> residuals_;     // squared, after the columns seen
  std::vector<std::uint32_t> seen_;  // how many columns
  std::vector<Pivot> pivots_;
  std::size_t most_columns_;
  std::unique_ptr<float[]> components_;  // rows of the Cholesky factor, (size, most_columns_)
};

}  // namespace

Selection select_dpp(const float* relevance, const float* vectors, std::size_t size, std::size_t dim,
                     std::size_t k, double trade_off, const Quotas& quotas, const std::int32_t* rows) {
  check_relevance(relevance, size);
  check_trade_off(trade_off);
  if (size == 0 || k == 0) return {};
  DppObjective objective(relevance, vectors, size, dim, k, trade_off, rows);
  return select_greedily(objective, k, quotas);
}

}  // namespace searchpipe
