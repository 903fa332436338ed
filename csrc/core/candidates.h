#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace searchpipe {

// Work on the candidates of one query, some hundreds of them: orders, scaling, places. Pure functions: any
// thread may call them. They throw std::invalid_argument.

// Whether no value is a NaN or an infinity.
bool all_finite(std::span<const float> values);

// Places of the scores from the largest down; equal ones keep their order, NaN come last.
std::vector<std::int32_t> best_first(std::span<const float> scores);

struct RankedDocuments {
  std::vector<std::int32_t> docs;
  std::vector<float> scores;
};

// At most `limit` of the documents below `count` from the largest score down, equal scores by document, NaN
// last. Other ids are left out: an index fills up with -1.
RankedDocuments ranked(std::span<const std::int64_t> ids, std::span<const float> scores, std::size_t limit,
                       std::int32_t count);

// (x - min) / (max - min) over the finite values, in the arithmetic of T; 1 where all of them are equal, 0
// for the others. `out` is as long as `column`.
void scale_to_unit(std::span<const float> column, std::span<float> out);
void scale_to_unit(std::span<const double> column, std::span<float> out);

// exp(-logit / temperature), the exponent held within -30 and 30, so that it is a normal float. NaN stay.
// `out` is as long as `logits`.
void odds_against(std::span<const float> logits, float temperature, std::span<float> out);

struct Blend {
  std::vector<float> logits;   // of all candidates; NaN behind those given
  std::vector<float> blended;  // by which they are ordered
  std::vector<std::int32_t> order;
};

// The opinion of a model on the first candidates, blended into the order of all `count` of them:
//
//   blended = weight / (1 + odds_against) + prior
//
// for those with a finite logit. The others follow behind the worst of these, in the order they had.
// `odds_against` is exp(-logit / temperature), which the caller computes; it, `logits` and `prior` are
// parallel, and not longer than `count`. At least one logit is finite.
Blend blend_opinion(std::span<const float> logits, std::span<const float> odds_against,
                    std::span<const float> prior, float weight, std::size_t count);

// The place, from 1, of each of `docs` in each of `orders`, order by order; 0 where it is not in it.
std::vector<std::int32_t> places_in(std::span<const std::int32_t> docs,
                                    std::span<const std::span<const std::int32_t>> orders);

// `first`, then all other places below `count` in their order. Throws std::out_of_range for a place outside,
// std::invalid_argument for one that is there twice.
std::vector<std::int32_t> moved_to_front(std::span<const std::int32_t> first, std::size_t count);

}  // namespace searchpipe
