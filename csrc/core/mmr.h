#pragma once

#include <cstddef>

#include "core/selection.h"

namespace searchpipe {

enum class RelevanceScale { kMinMax, kNone };

// Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998), greedily. The value of candidate i is
//
//   trade_off * r_i - (1 - trade_off) * max over picks j of max(0, cos(v_i, v_j))          (0 before the
//   first pick)
//
// with r the relevance, scaled to [0, 1] over the candidates for kMinMax (all 0 if they are equal). A vector
// without a direction (see Directions) is similar to nothing. Equal values: the first candidate.
//
// `relevance`: float32 (size); `vectors`: float32 (size, dim), row-major. Work: at most size * dim a pick.
// With `rows`, int32 (size), `vectors` may have any number of rows, and candidate i has row rows[i].
// Throws std::invalid_argument for a relevance that is not finite, trade_off outside 0..1, or quotas about
// another number of candidates. Any number of threads may call it.
Selection select_mmr(const float* relevance, const float* vectors, std::size_t size, std::size_t dim,
                     std::size_t k, double trade_off, RelevanceScale scale, const Quotas& quotas,
                     const std::int32_t* rows = nullptr);

}  // namespace searchpipe
