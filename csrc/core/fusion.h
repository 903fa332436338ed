#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace searchpipe {

// Ranked lists of documents made into one. In all functions here: documents are not negative; of a document
// that is twice in one list the first place counts; results are ordered by score (as float32, the type
// returned), and equal scores by the first list that has the document, then by its place there. limit 0 keeps
// all. Pure functions: any thread may call them. They throw std::invalid_argument.

struct FusedList {
  std::vector<std::int32_t> docs;
  std::vector<float> scores;
};

// Reciprocal rank fusion: score(d) = sum over lists of weight / (k + rank of d), ranks from 1, lists without
// d add nothing. Cormack, Clarke, Buettcher: Reciprocal Rank Fusion outperforms Condorcet and individual Rank
// Learning Methods, SIGIR 2009. `weights` are finite and not negative, one for each list; empty: all 1. k is
// not negative.
FusedList reciprocal_rank_fusion(std::span<const std::span<const std::int32_t>> lists,
                                 std::span<const double> weights, double k, std::int64_t limit);

enum class Normalization {
  kNone,    // scores as they are; a list without the document adds 0 (CombSUM: Fox and Shaw, TREC-2, 1994)
  kMinMax,  // (s - min) / (max - min), 1 where all are equal; a list without the document adds 0
  kZScore   // (s - mean) / population deviation, 0 where all are equal; a list without it adds its lowest
            // value
};

struct ScoredList {
  std::span<const std::int32_t> docs;
  std::span<const float> scores;  // finite; the list need not be sorted
};

// score(d) = sum over lists of weight * normalised score of d.
FusedList fuse_scores(std::span<const ScoredList> lists, std::span<const double> weights,
                      Normalization normalization, std::int64_t limit);

// How lists are fused: by ranks as reciprocal_rank_fusion does with `k`, or by scores as fuse_scores does.
struct FusionRule {
  bool by_rank = true;
  double k = 60.0;
  Normalization normalization = Normalization::kMinMax;
};

struct FusedColumns {
  FusedList fused;
  // The score that each list itself gave each document of `fused`, list by list; NaN where it has none.
  std::vector<float> columns;
};

// All documents fused, and beside them the scores that went in. By ranks, scores may be anything.
FusedColumns fuse_with_columns(std::span<const ScoredList> lists, std::span<const double> weights,
                               const FusionRule& rule);

}  // namespace searchpipe
