#include "core/mmr.h"

#include <algorithm>

#include "core/directions.h"

namespace searchpipe {
namespace {

std::vector<float> scaled(const float* relevance, std::size_t size, RelevanceScale scale) {
  std::vector<float> out(relevance, relevance + size);
  if (scale == RelevanceScale::kNone || size == 0) return out;
  const auto [least, most] = std::minmax_element(relevance, relevance + size);
  // In double: the difference of two finite float32 may overflow float32.
  const double low = *least, width = static_cast<double>(*most) - low;
  for (float& value : out) value = width > 0.0 ? static_cast<float>((value - low) / width) : 0.0f;
  return out;
}

class MmrObjective : public GreedyObjective {
 public:
  MmrObjective(std::vector<float> relevance, const float* vectors, std::size_t dim, double trade_off,
               const std::int32_t* rows)
      : directions_(vectors, relevance.size(), dim, rows),
        worth_(std::move(relevance)),
        penalty_(static_cast<float>(1.0 - trade_off)),
        similarity_(worth_.size(), 0.0f),
        seen_(worth_.size(), 0) {
    const auto weight = static_cast<float>(trade_off);
    for (float& value : worth_) value *= weight;
  }

  const std::vector<float>& initial() const override { return worth_; }

  bool is_current(std::size_t candidate) const override {
    return seen_[candidate] == picks_ || penalty_ == 0.0f;
  }

  float tighten(std::size_t candidate, float floor) override {
    float value = value_of(candidate);
    while (seen_[candidate] < picks_ && value >= floor) {
      const float cosine = directions_.cosine(candidate, seen_[candidate]++);
      if (cosine > similarity_[candidate]) {
        similarity_[candidate] = cosine;
        value = value_of(candidate);
      }
    }
    return value;
  }

  void pick(std::size_t candidate) override {
    if (penalty_ == 0.0f) return;
    directions_.pick(candidate);
    ++picks_;
  }

 private:
  float value_of(std::size_t candidate) const {
    return worth_[candidate] - penalty_ * similarity_[candidate];
  }

  Directions directions_;
  std::vector<float> worth_;  // trade_off * relevance
  float penalty_;
  std::vector<float> similarity_;    // to the nearest of the picks seen
  std::vector<std::uint32_t> seen_;  // how many picks
  std::uint32_t picks_ = 0;
};

}  // namespace

Selection select_mmr(const float* relevance, const float* vectors, std::size_t size, std::size_t dim,
                     std::size_t k, double trade_off, RelevanceScale scale, const Quotas& quotas,
                     const std::int32_t* rows) {
  check_relevance(relevance, size);
  check_trade_off(trade_off);
  MmrObjective objective(scaled(relevance, size, scale), vectors, dim, trade_off, rows);
  return select_greedily(objective, k, quotas);
}

}  // namespace searchpipe
