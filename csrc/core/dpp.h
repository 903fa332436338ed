#pragma once

#include <cstddef>

#include "core/selection.h"

namespace searchpipe {

// Most probable set of a determinantal point process, greedily, by the incremental Cholesky factorisation of
// Chen, Zhang and Zhou ("Fast Greedy MAP Inference for Determinantal Point Process", NeurIPS 2018, arXiv
// 1709.05135).
//
// The kernel is L = diag(q) S diag(q) with S_ij = cos(v_i, v_j) and q_i = exp(a z_i), where z is the
// relevance standardised over the candidates ((r - mean) / population deviation; all 0 if they are equal) and
// a = trade_off / (2 (1 - trade_off)). Greedily maximising log det L_Y is then, up to the factor 1 -
// trade_off, picking the candidate of the largest
//
//   trade_off * z_i + (1 - trade_off) * log max(d_i^2, 1e-4)
//
// with d_i^2 = det S_{Y+i} / det S_Y, the part of v_i (of unit length) outside the span of the picks. That
// form is used because it neither overflows nor jumps as trade_off goes to 1, where it is relevance alone.
// The floor of 1e-4 stands for "nothing new": once the picks span what the candidates span, relevance
// decides. A vector without a direction (see Directions) has S_ii = 1 and S_ij = 0. Equal values: the first
// candidate.
//
// With `rows`, int32 (size), `vectors` may have any number of rows, and candidate i has row rows[i].
// `relevance`: float32 (size); `vectors`: float32 (size, dim), row-major. Work: at most size * (dim + p) for
// pick p. Throws std::invalid_argument for a relevance that is not finite, trade_off outside 0..1, or quotas
// about another number of candidates. Any number of threads may call it.
Selection select_dpp(const float* relevance, const float* vectors, std::size_t size, std::size_t dim,
                     std::size_t k, double trade_off, const Quotas& quotas,
                     const std::int32_t* rows = nullptr);

}  // namespace searchpipe
