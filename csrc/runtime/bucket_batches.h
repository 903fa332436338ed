#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/batch_planner.h"
#include "runtime/shape.h"

namespace searchpipe::runtime {

// How long one batch of a bucket takes, in milliseconds.
struct BucketCost {
  double fixed = 0.0;      // a launch, whatever it holds
  double per_token = 0.0;  // of rows x tokens that the batch really has; for engines of free shape
};

// One batch: rows [begin, end) of the list that was planned, run as `shape`.
struct BucketBatch {
  std::size_t begin = 0;
  std::size_t end = 0;
  int bucket = 0;
  Bucket shape;
};

// Cuts rows into batches so that the sum of their costs is least, among the
// ways to cut that keep the order of `lengths`.
//
// Dynamic programming over the places to cut: best(i) = min over buckets b of
// cost(b) + best(i + rows that b holds from row i on). A bucket is filled as
// far as it goes, since fewer rows never cost more. Cuts with which a plan cannot be the best are left out,
// by a bound on what the rows behind them cost; rows that one batch takes are mostly planned in O(rows +
// buckets), others in O(rows x buckets x log rows) at most. Padded rows have to be sorted longest first: the
// first row of a batch then decides which buckets are wide enough.
//
// `exact_shape` (padded rows only): the engine runs any shape up to the
// bucket, so a batch costs what it really holds and is not filled up. Throws
// std::invalid_argument for a length that no bucket holds.
std::vector<BucketBatch> cut_into_batches(std::span<const std::int32_t> lengths, const EngineShape& engine,
                                          const std::vector<BucketCost>& costs, bool exact_shape);

// The straight line of seconds over token places that fits the buckets best (least squares), as the batch
// planner wants it; never below zero.
BatchCost fit_cost(const EngineShape& engine, const std::vector<BucketCost>& costs);

}  // namespace searchpipe::runtime
