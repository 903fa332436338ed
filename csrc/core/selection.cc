#include "core/selection.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "core/block_max.h"
#include "core/message.h"

namespace searchpipe {
namespace {

class RelevanceObjective : public GreedyObjective {
 public:
  explicit RelevanceObjective(std::vector<float> relevance) : relevance_(std::move(relevance)) {}
  const std::vector<float>& initial() const override { return relevance_; }
  bool is_current(std::size_t) const override { return true; }
  float tighten(std::size_t candidate, float) override { return relevance_[candidate]; }
  void pick(std::size_t) override {}

 private:
  std::vector<float> relevance_;
};

// The candidates that are left, with upper bounds of their values; those that may take the next place are in
// `open`.
class Contest {
 public:
  Contest(GreedyObjective& objective, const Quotas& quotas)
      : objective_(objective),
        quotas_(quotas, objective.initial().size()),
        bounds_(objective.initial()),
        taken_(bounds_.size(), 0),
        open_(bounds_) {}

  void fill_place(Selection& selection) {
    std::size_t winner = best_open();
    const bool relaxed = winner == BlockMax::kNone;
    if (relaxed) {
      open_least_excess();
      winner = best_open();
    }
    selection.order.push_back(static_cast<std::int32_t>(winner));
    selection.gains.push_back(bounds_[winner]);
    selection.relaxed.push_back(relaxed);
    taken_[winner] = 1;
    open_.set(winner, BlockMax::kAbsent);
    objective_.pick(winner);
    for (const std::uint32_t candidate : quotas_.place(winner)) refresh(candidate);
    if (relaxed) {
      for (const std::uint32_t candidate : excused_) refresh(candidate);
    }
  }

 private:
  // Best first: few candidates need a look when relevance sets them apart. Where many compete, one sweep in
  // order of memory is cheaper than finding the best again and again.
  std::size_t best_open() {
    constexpr int kPatience = 48;
    float floor = BlockMax::kAbsent;
    for (int looks = 0; looks < kPatience; ++looks) {
      const std::size_t candidate = open_.argmax();
      if (candidate == BlockMax::kNone || objective_.is_current(candidate)) return candidate;
      open_.set(candidate, tighten(candidate, floor));
    }
    open_.sweep(floor, [this](std::size_t candidate, float value, float& least) {
      return objective_.is_current(candidate) ? value : tighten(candidate, least);
    });
    return open_.argmax();
  }

  float tighten(std::size_t candidate, float& floor) {
    // A value may exceed its own earlier bound only by rounding.
    const float value = bounds_[candidate] =
        std::min(bounds_[candidate], objective_.tighten(candidate, floor));
    if (value > floor && objective_.is_current(candidate)) floor = value;
    return value;
  }

  void open_least_excess() {
    std::int32_t least = std::numeric_limits<std::int32_t>::max();
    for (std::size_t i = 0; i < taken_.size(); ++i) {
      if (!taken_[i]) least = std::min(least, quotas_.excess(i));
    }
    excused_.clear();
    for (std::size_t i = 0; i < taken_.size(); ++i) {
      if (taken_[i] || quotas_.excess(i) != least) continue;
      excused_.push_back(static_cast<std::uint32_t>(i));
      open_.set(i, bounds_[i]);
    }
  }

  void refresh(std::size_t candidate) {
    const bool eligible = !taken_[candidate] && quotas_.excess(candidate) == 0;
    open_.set(candidate, eligible ? bounds_[candidate] : BlockMax::kAbsent);
  }

  GreedyObjective& objective_;
  QuotaTracker quotas_;
  std::vector<float> bounds_;
  std::vector<std::uint8_t> taken_;
  BlockMax open_;
  std::vector<std::uint32_t> excused_;
};

}  // namespace

Selection select_greedily(GreedyObjective& objective, std::size_t k, const Quotas& quotas) {
  const std::size_t size = objective.initial().size();
  if (size > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) {
    throw std::invalid_argument(message(size, " candidates; at most 2147483647 can be ordered"));
  }
  const std::size_t places = std::min(k, size);
  Selection selection;
  selection.order.reserve(places);
  selection.gains.reserve(places);
  selection.relaxed.reserve(places);
  Contest contest(objective, quotas);
  for (std::size_t place = 0; place < places; ++place) contest.fill_place(selection);
  return selection;
}

Selection select_by_relevance(const float* relevance, std::size_t size, std::size_t k, const Quotas& quotas) {
  check_relevance(relevance, size);
  RelevanceObjective objective(std::vector<float>(relevance, relevance + size));
  return select_greedily(objective, k, quotas);
}

std::size_t changed_places(const std::vector<std::int32_t>& order) {
  std::size_t changed = 0;
  for (std::size_t place = 0; place < order.size(); ++place) {
    changed += static_cast<std::size_t>(order[place]) != place ? 1 : 0;
  }
  return changed;
}

void check_relevance(const float* relevance, std::size_t size) {
  for (std::size_t i = 0; i < size; ++i) {
    if (!std::isfinite(relevance[i])) {
      throw std::invalid_argument(
          message("relevance[", i, "] is ", relevance[i],
                  "; it must be finite (give unscored candidates the least relevance)"));
    }
  }
}

void check_trade_off(double trade_off) {
  if (!(trade_off >= 0.0 && trade_off <= 1.0)) {
    throw std::invalid_argument(message("trade_off is ", trade_off,
                                        "; it must be between 0 (diversity only) and 1 (relevance only)"));
  }
}

}  // namespace searchpipe
