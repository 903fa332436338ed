#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/quota.h"

namespace searchpipe {

// k candidates in the order of their places.
struct Selection {
  std::vector<std::int32_t> order;    // candidate of each place
  std::vector<float> gains;           // the objective's value of that candidate when it was picked
  std::vector<std::uint8_t> relaxed;  // 1 where every candidate left would have broken a quota
};

// Places that another candidate than the one of their number has.
std::size_t changed_places(const std::vector<std::int32_t>& order);

// What a greedy selection maximises at every place. Values may only fall as picks are made (the objective is
// submodular): a value computed earlier is then an upper bound, and candidates whose bound is already below a
// current value need not be looked at. The result is that of recomputing everything at every place.
class GreedyObjective {
 public:
  virtual ~GreedyObjective() = default;

  // Every candidate's value before the first pick. Finite.
  virtual const std::vector<float>& initial() const = 0;

  // True if the last value of `candidate` takes all picks into account.
  virtual bool is_current(std::size_t candidate) const = 0;

  // Takes more picks into account: returns a value that is current, or an upper bound that is below `floor`.
  virtual float tighten(std::size_t candidate, float floor) = 0;

  virtual void pick(std::size_t candidate) = 0;
};

// Fills min(k, n) places, each with the eligible candidate of the largest value (the first of equals). Where
// no candidate left is eligible, those that exceed the quotas by the fewest items compete for the place.
Selection select_greedily(GreedyObjective& objective, std::size_t k, const Quotas& quotas);

// Most relevant first, under quotas. Gains are the relevance.
// Throws std::invalid_argument for a relevance that is not finite or quotas about another number of
// candidates.
Selection select_by_relevance(const float* relevance, std::size_t size, std::size_t k, const Quotas& quotas);

// Throws std::invalid_argument naming the first value that is NaN or infinite.
void check_relevance(const float* relevance, std::size_t size);

// Throws std::invalid_argument unless 0 <= trade_off <= 1.
void check_trade_off(double trade_off);

}  // namespace searchpipe
