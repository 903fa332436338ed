#include "core/fusion.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "core/message.h"
#include "core/score_order.h"

namespace searchpipe {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// Adds up contributions list by list. A hash table with linear probing, at most half full, numbers the
// documents in the order of their first appearance.
class Fusion {
 public:
  static constexpr std::size_t kRepeated = std::numeric_limits<std::size_t>::max();

  Fusion(std::size_t most, std::span<const double> weights)
      : slots_(std::bit_ceil(std::max<std::size_t>(2 * most, 2))), weights_(weights) {
    if (most >= kNoList) throw std::invalid_argument(message(most, " documents; fuse fewer than ", kNoList));
    documents_.reserve(most);
  }

  // The document's number if this is its first place in `list`, else kRepeated.
  std::size_t enter(std::size_t list, std::size_t place, std::int32_t doc) {
    if (doc < 0) {
      throw std::invalid_argument(
          message("list ", list, " has document ", doc, " at place ", place,
                  "; documents are not negative: drop the places that found nothing"));
    }
    const std::size_t mask = slots_.size() - 1;
    // Fibonacci hashing: the high bits of the product are well mixed.
    std::size_t slot = (static_cast<std::uint64_t>(doc) * 0x9E3779B97F4A7C15 >> 32) & mask;
    while (slots_[slot] != 0 && documents_[slots_[slot] - 1].doc != doc) slot = (slot + 1) & mask;
    if (slots_[slot] == 0) {
      documents_.push_back({doc, kNoList, 0.0});
      slots_[slot] = static_cast<std::uint32_t>(documents_.size());
    }
    const std::size_t number = slots_[slot] - 1;
    if (documents_[number].last_list == list) return kRepeated;
    documents_[number].last_list = static_cast<std::uint32_t>(list);
    return number;
  }

  void add(std::size_t list, std::size_t number, double value) {
    documents_[number].sum += weight(list) * value;
  }

  void add_to_all(std::size_t list, double value) { base_ += weight(list) * value; }

  // Numbers of the best documents, best first, and the scores of all by number.
  struct Order {
    std::vector<std::int32_t> numbers;
    std::vector<float> scores;
  };

  Order order(std::int64_t limit) const {
    std::vector<float> scores(documents_.size());
    for (std::size_t i = 0; i < scores.size(); ++i) {
      const double sum = base_ + documents_[i].sum;
      // Compared before the conversion: a double outside of float's range is undefined behaviour there.
      if (!(std::abs(sum) <= std::numeric_limits<float>::max())) {
        throw std::invalid_argument(
            message("the fused score of document ", documents_[i].doc, " is ", sum,
                    ", outside of float32; lower the weights or normalise the scores"));
      }
      scores[i] = static_cast<float>(sum);
    }
    // Numbers are given by first list and place, so they break ties as promised.
    std::vector<std::int32_t> numbers = places_by_score(scores);
    if (limit != 0) numbers.resize(std::min(numbers.size(), static_cast<std::size_t>(limit)));
    return {std::move(numbers), std::move(scores)};
  }

  FusedList list(const Order& order) const {
    FusedList fused{std::vector<std::int32_t>(order.numbers.size()),
                    std::vector<float>(order.numbers.size())};
    for (std::size_t place = 0; place < order.numbers.size(); ++place) {
      const auto number = static_cast<std::size_t>(order.numbers[place]);
      fused.docs[place] = documents_[number].doc;
      fused.scores[place] = order.scores[number];
    }
    return fused;
  }

  FusedList best(std::int64_t limit) const { return list(order(limit)); }

 private:
  static constexpr std::uint32_t kNoList = std::numeric_limits<std::uint32_t>::max();

  struct Document {
    std::int32_t doc;
    std::uint32_t last_list;
    double sum;
  };

  double weight(std::size_t list) const { return weights_.empty() ? 1.0 : weights_[list]; }

  std::vector<std::uint32_t> slots_;  // 1 + number; 0 for none
  std::vector<Document> documents_;
  std::span<const double> weights_;
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

// The scores that one list itself gave, by number; nothing if nobody wants them.
using Given = std::span<float>;

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

void add_ranks(Fusion& fusion, std::size_t list, std::span<const std::int32_t> docs, double k,
               std::span<const float> scores = {}, Given given = {}) {
  for (std::size_t place = 0; place < docs.size(); ++place) {
    const std::size_t number = fusion.enter(list, place, docs[place]);
    if (number == Fusion::kRepeated) continue;
    fusion.add(list, number, 1.0 / (k + static_cast<double>(place + 1)));
    if (!given.empty()) given[number] = scores[place];
  }
}

void add_scores(Fusion& fusion, std::size_t i, const ScoredList& list, Normalization normalization,
                Given given = {}) {
  std::vector<Place> places;
  places.reserve(list.docs.size());
  for (std::size_t place = 0; place < list.docs.size(); ++place) {
    if (!std::isfinite(list.scores[place])) {
      throw std::invalid_argument(message("list ", i, " has score ", list.scores[place], " for document ",
                                          list.docs[place], "; scores must be finite: drop such documents"));
    }
    const std::size_t number = fusion.enter(i, place, list.docs[place]);
    if (number == Fusion::kRepeated) continue;
    places.push_back({number, list.scores[place]});
    if (!given.empty()) given[number] = list.scores[place];
  }
  const double elsewhere = normalize(places, normalization);
  fusion.add_to_all(i, elsewhere);
  for (const Place& place : places) fusion.add(i, place.number, place.score - elsewhere);
}

void check_k(double k) {
  if (!std::isfinite(k) || k < 0) {
    throw std::invalid_argument(message("k is ", k, "; it must be finite and not negative (60 is usual)"));
  }
}

// Documents of all lists together, repeated ones counted again.
std::size_t check_lengths(std::span<const ScoredList> lists) {
  std::size_t most = 0;
  for (std::size_t i = 0; i < lists.size(); ++i) {
    if (lists[i].docs.size() != lists[i].scores.size()) {
      throw std::invalid_argument(message("list ", i, " has ", lists[i].docs.size(), " documents and ",
                                          lists[i].scores.size(), " scores; pass one score for each"));
    }
    most += lists[i].docs.size();
  }
  return most;
}

}  // namespace

FusedList reciprocal_rank_fusion(std::span<const std::span<const std::int32_t>> lists,
                                 std::span<const double> weights, double k, std::int64_t limit) {
  check_arguments(lists.size(), weights, limit);
  check_k(k);
  std::size_t most = 0;
  for (const auto& list : lists) most += list.size();
  Fusion fusion(most, weights);
  for (std::size_t list = 0; list < lists.size(); ++list) add_ranks(fusion, list, lists[list], k);
  return fusion.best(limit);
}

FusedList fuse_scores(std::span<const ScoredList> lists, std::span<const double> weights,
                      Normalization normalization, std::int64_t limit) {
  check_arguments(lists.size(), weights, limit);
  Fusion fusion(check_lengths(lists), weights);
  for (std::size_t i = 0; i < lists.size(); ++i) add_scores(fusion, i, lists[i], normalization);
  return fusion.best(limit);
}

FusedColumns fuse_with_columns(std::span<const ScoredList> lists, std::span<const double> weights,
                               const FusionRule& rule) {
  check_arguments(lists.size(), weights, 0);
  if (rule.by_rank) check_k(rule.k);
  const std::size_t most = check_lengths(lists);
  Fusion fusion(most, weights);
  std::vector<float> by_number(lists.size() * most, kNaN);
  for (std::size_t i = 0; i < lists.size(); ++i) {
    const Given given = Given(by_number).subspan(i * most, most);
    if (rule.by_rank) {
      add_ranks(fusion, i, lists[i].docs, rule.k, lists[i].scores, given);
    } else {
      add_scores(fusion, i, lists[i], rule.normalization, given);
    }
  }
  const Fusion::Order order = fusion.order(0);
  FusedColumns found{fusion.list(order), {}};
  const std::size_t width = order.numbers.size();
  found.columns.resize(lists.size() * width);
  for (std::size_t i = 0; i < lists.size(); ++i) {
    std::transform(
        order.numbers.begin(), order.numbers.end(), found.columns.data() + i * width,
        [&](std::int32_t number) { return by_number[i * most + static_cast<std::size_t>(number)]; });
  }
  return found;
}

}  // namespace searchpipe
