#include "core/fusion.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>

#include "core/message.h"

namespace searchpipe {
namespace {

// Numbers documents in the order of their first appearance: a hash table with linear probing, at most half
// full.
class DocumentNumbers {
 public:
  explicit DocumentNumbers(std::size_t most)
      : slots_(std::bit_ceil(std::max<std::size_t>(2 * most, 2)), kFree) {
    docs_.reserve(most);
  }

  std::size_t number(std::int32_t doc) {
    const std::size_t mask = slots_.size() - 1;
    // Fibonacci hashing: the high bits of the product are well mixed.
    std::size_t slot = (static_cast<std::uint64_t>(doc) * 0x9E3779B97F4A7C15 >> 32) & mask;
    while (slots_[slot] != kFree && docs_[slots_[slot]] != doc) slot = (slot + 1) & mask;
    if (slots_[slot] == kFree) {
      slots_[slot] = docs_.size();
      docs_.push_back(doc);
    }
    return slots_[slot];
  }

  const std::vector<std::int32_t>& docs() const { return docs_; }

 private:
  static constexpr std::size_t kFree = std::numeric_limits<std::size_t>::max();

  std::vector<std::size_t> slots_;
  std::vector<std::int32_t> docs_;
};

// Adds up contributions list by list.
class Fusion {
 public:
  Fusion(std::size_t most, std::span<const double> weights) : numbers_(most), weights_(weights) {
    sums_.reserve(most);
    last_list_.reserve(most);
  }

  // The document's number if this is its first place in `list`, else kRepeated.
  std::size_t enter(std::size_t list, std::size_t place, std::int32_t doc) {
    if (doc < 0) {
      throw std::invalid_argument(
          message("list ", list, " has document ", doc, " at place ", place,
                  "; documents are not negative: drop the places that found nothing"));
    }
    const std::size_t number = numbers_.number(doc);
    if (number == sums_.size()) {
      sums_.push_back(0.0);
      last_list_.push_back(kRepeated);
    }
    if (last_list_[number] == list) return kRepeated;
    last_list_[number] = list;
    return number;
  }

  void add(std::size_t list, std::size_t number, double value) { sums_[number] += weight(list) * value; }

  void add_to_all(std::size_t list, double value) { base_ += weight(list) * value; }

  FusedList best(std::int64_t limit) const {
    std::vector<float> scores(sums_.size());
    for (std::size_t i = 0; i < scores.size(); ++i) {
      const double sum = base_ + sums_[i];
      // Compared before the conversion: a double outside of float's range is undefined behaviour there.
      if (!(std::abs(sum) <= std::numeric_limits<float>::max())) {
        throw std::invalid_argument(
            message("the fused score of document ", numbers_.docs()[i], " is ", sum,
                    ", outside of float32; lower the weights or normalise the scores"));
      }
      scores[i] = static_cast<float>(sum);
    }
    // Numbers are given by first list and place, so they break ties as promised.
    std::vector<std::size_t> order(scores.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    const std::size_t kept =
        limit == 0 ? order.size() : std::min(order.size(), static_cast<std::size_t>(limit));
    std::partial_sort(
        order.begin(), order.begin() + static_cast<std::ptrdiff_t>(kept), order.end(),
        [&](std::size_t a, std::size_t b) { return scores[a] != scores[b] ? scores[a] > scores[b] : a < b; });
    FusedList fused;
    fused.docs.reserve(kept);
    fused.scores.reserve(kept);
    for (std::size_t i = 0; i < kept; ++i) {
      fused.docs.push_back(numbers_.docs()[order[i]]);
      fused.scores.push_back(scores[order[i]]);
    }
    return fused;
  }

  static constexpr std::size_t kRepeated = std::numeric_limits<std::size_t>::max();

 private:
  double weight(std::size_t list) const { return weights_.empty() ? 1.0 : weights_[list]; }

  DocumentNumbers numbers_;
  std::span<const double> weights_;
  std::vector<double> sums_;
  std::vector<std::size_t> last_list_;
  double base_ = 0.0;  // what every document has
};

void check_arguments(std::size_t lists, std::span<const double> weights, std::int64_t limit) {
  if (!weights.empty() && weights.size() != lists) {
    throw std::invalid_argument(
        message(weights.size(), " weights for ", lists, " lists; pass one for each list, or none"));
  }
  for (std::size_t i = 0; i < weights.size(); ++i) {
    if (!std::isfinite(weights[i]) || weights[i] < 0) {
      throw std::invalid_argument(
          message("weight ", i, " is ", weights[i], "; weights are finite and not negative"));
    }
  }
  if (limit < 0) throw std::invalid_argument(message("limit is ", limit, "; pass 0 to keep all"));
}

struct Place {
  std::size_t number;
  double score;
};

// The first places of a list's documents, checked and normalised; returns what documents elsewhere get from
// it.
double normalize(std::vector<Place>& places, Normalization normalization) {
  if (normalization == Normalization::kNone || places.empty()) return 0.0;
  const auto by_score = [](const Place& a, const Place& b) { return a.score < b.score; };
  const auto [low, high] = std::minmax_element(places.begin(), places.end(), by_score);
  const double least = low->score;
  const double range = high->score - least;
  if (normalization == Normalization::kMinMax) {
    for (Place& place : places) place.score = range == 0 ? 1.0 : (place.score - least) / range;
    return 0.0;
  }
  double mean = 0.0;
  for (const Place& place : places) mean += place.score;
  mean /= static_cast<double>(places.size());
  double variance = 0.0;
  for (const Place& place : places) variance += (place.score - mean) * (place.score - mean);
  const double deviation = std::sqrt(variance / static_cast<double>(places.size()));
  const auto standard = [&](double score) { return range == 0 ? 0.0 : (score - mean) / deviation; };
  const double lowest = standard(least);
  for (Place& place : places) place.score = standard(place.score);
  return lowest;
}

}  // namespace

FusedList reciprocal_rank_fusion(std::span<const std::span<const std::int32_t>> lists,
                                 std::span<const double> weights, double k, std::int64_t limit) {
  check_arguments(lists.size(), weights, limit);
  if (!std::isfinite(k) || k < 0) {
    throw std::invalid_argument(message("k is ", k, "; it must be finite and not negative (60 is usual)"));
  }
  std::size_t most = 0;
  for (const auto& list : lists) most += list.size();
  Fusion fusion(most, weights);
  for (std::size_t list = 0; list < lists.size(); ++list) {
    for (std::size_t place = 0; place < lists[list].size(); ++place) {
      const std::size_t number = fusion.enter(list, place, lists[list][place]);
      if (number != Fusion::kRepeated) fusion.add(list, number, 1.0 / (k + static_cast<double>(place + 1)));
    }
  }
  return fusion.best(limit);
}

FusedList fuse_scores(std::span<const ScoredList> lists, std::span<const double> weights,
                      Normalization normalization, std::int64_t limit) {
  check_arguments(lists.size(), weights, limit);
  std::size_t most = 0;
  for (const ScoredList& list : lists) most += list.docs.size();
  Fusion fusion(most, weights);
  std::vector<Place> places;
  for (std::size_t i = 0; i < lists.size(); ++i) {
    const ScoredList& list = lists[i];
    if (list.docs.size() != list.scores.size()) {
      throw std::invalid_argument(message("list ", i, " has ", list.docs.size(), " documents and ",
                                          list.scores.size(), " scores; pass one score for each"));
    }
    places.clear();
    for (std::size_t place = 0; place < list.docs.size(); ++place) {
      if (!std::isfinite(list.scores[place])) {
        throw std::invalid_argument(message("list ", i, " has score ", list.scores[place], " for document ",
                                            list.docs[place],
                                            "; scores must be finite: drop such documents"));
      }
      const std::size_t number = fusion.enter(i, place, list.docs[place]);
      if (number != Fusion::kRepeated) places.push_back({number, list.scores[place]});
    }
    const double elsewhere = normalize(places, normalization);
    fusion.add_to_all(i, elsewhere);
    for (const Place& place : places) fusion.add(i, place.number, place.score - elsewhere);
  }
  return fusion.best(limit);
}

}  // namespace searchpipe
