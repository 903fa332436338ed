#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "core/fusion.h"
#include "core/pair_packer.h"
#include "core/token_store.h"
#include "runtime/request_cost.h"
#include "runtime/scorer.h"

namespace searchpipe::runtime {

// One term of the formula that orders candidates: a weight times a value of each.
struct HeadTerm {
  enum class How {
    kScore,     // the scores under `score`, scaled to unit
    kDocument,  // values[document]
    kPlace      // values[place in the fused order]
  };
  How how = How::kScore;
  std::size_t score = 0;  // 0: the fused score; else one more than the list
  std::span<const float> values;
  float weight = 1.0F;
};

// All that is known of a query before its last list of documents.
struct HeadQuestion {
  std::vector<ScoredList> lists;  // whose order decides ties; the one at `awaited` is not there yet
  std::size_t awaited = 0;
  std::vector<double> weights;  // of the lists
  FusionRule rule;
  bool ordered = false;  // by the formula; else as fused
  std::vector<HeadTerm> formula;
  std::size_t depth = 0;  // of them as pairs
  std::optional<PairPacker> packer;
  std::shared_ptr<const TokenStore> store;
  std::vector<std::int32_t> query;
  std::int32_t priority = 0;
};

// When pairs are begun at all. The engine is busy for wait_s; a request takes what its batches cost and
// handover_s, and `margin` times that must fit into what is left of allowance_s (infinite: no limit).
struct HeadLimit {
  double allowance_s = 0.0;
  double wait_s = 0.0;
  double handover_s = 0.0;
  double margin = 1.0;
};

// What was made of a question.
struct HeadAnswer {
  FusedColumns fused;
  std::vector<float> sums;                    // the formula, in the fused order
  std::vector<std::int32_t> order;            // places of the fused order, best first by the formula
  std::int64_t tokens = 0;                    // of the pairs
  double seconds = 0.0;                       // that their batches cost
  std::optional<Clock::time_point> deadline;  // until which they must be begun
  TicketPtr ticket;
};

// From a query's last list to its pairs in one go: fuses, orders by a formula, measures and prepares the
// request. The spans of the question must stay valid. Nothing if there is no document, a value of the formula
// is not finite, or the pairs do not fit the limit. Throws std::invalid_argument for what cannot be fused,
// std::out_of_range for a document outside.
std::optional<HeadAnswer> head_answer(const HeadQuestion& question, const ScoredList& awaited,
                                      const HeadLimit& limit, const RequestCost& cost, const Scorer& scorer);

}  // namespace searchpipe::runtime
