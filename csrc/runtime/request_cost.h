#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/bucket_batches.h"
#include "runtime/shape.h"

namespace searchpipe::runtime {

// How long requests take on an engine whose batches were measured: the sum of the batches that the scorer
// would cut them into, each at what its bucket costs. Immutable: any thread may call everything.
class RequestCost {
 public:
  // `costs` in milliseconds, one for each bucket of `engine`. Throws std::invalid_argument for another
  // number.
  RequestCost(EngineShape engine, std::vector<BucketCost> costs);

  // Of rows with these lengths in tokens, in any order; longer ones count as the longest that the engine
  // takes.
  double seconds(std::span<const std::int32_t> lengths) const;

 private:
  // As the engine takes them, longest first.
  std::vector<std::int32_t> descending(std::span<const std::int32_t> lengths) const;

  EngineShape engine_;
  std::vector<BucketCost> costs_;
  std::vector<double> seconds_;  // of one batch, by bucket
};

}  // namespace searchpipe::runtime
