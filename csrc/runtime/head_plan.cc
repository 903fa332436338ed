#include "runtime/head_plan.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "core/candidates.h"
#include "core/message.h"
#include "runtime/pair_rows.h"

namespace searchpipe::runtime {
namespace {

// As weigh_features of the bindings adds them up: in float32, term after term.
std::vector<float> weighed(const std::vector<HeadTerm>& formula, const FusedColumns& fused) {
  const std::vector<std::int32_t>& docs = fused.fused.docs;
  std::vector<float> sums(docs.size(), 0.0F);
  std::vector<float> room(docs.size());
  for (const HeadTerm& term : formula) {
    switch (term.how) {
      case HeadTerm::How::kScore: {
        const std::span<const float> columns(fused.columns);
        scale_to_unit(term.score == 0 ? std::span<const float>(fused.fused.scores)
                                      : columns.subspan((term.score - 1) * docs.size(), docs.size()),
                      room);
        break;
      }
      case HeadTerm::How::kDocument:
        std::transform(docs.begin(), docs.end(), room.begin(), [&](std::int32_t doc) {
          if (static_cast<std::size_t>(doc) >= term.values.size()) {
            throw std::out_of_range(message("document ", doc, " is outside of 0..", term.values.size()));
          }
          return term.values[static_cast<std::size_t>(doc)];
        });
        break;
      case HeadTerm::How::kPlace:
        if (term.values.size() < docs.size()) {
          throw std::invalid_argument(
              message("there are values for ", term.values.size(), " of ", docs.size(), " places"));
        }
        std::copy_n(term.values.begin(), docs.size(), room.begin());
        break;
    }
    for (std::size_t i = 0; i < docs.size(); ++i) sums[i] += term.weight * room[i];
  }
  return sums;
}

}  // namespace

std::optional<HeadAnswer> head_answer(const HeadQuestion& question, const ScoredList& awaited,
                                      const HeadLimit& limit, const RequestCost& cost, const Scorer& scorer) {
  std::vector<ScoredList> lists = question.lists;
  lists.at(question.awaited) = awaited;
  HeadAnswer answer;
  answer.fused = fuse_with_columns(lists, question.weights, question.rule);
  const std::vector<std::int32_t>& fused = answer.fused.fused.docs;
  if (fused.empty()) return std::nullopt;
  std::vector<std::int32_t> docs(
      fused.begin(), fused.begin() + static_cast<std::ptrdiff_t>(std::min(question.depth, fused.size())));
  if (question.ordered) {
    answer.sums = weighed(question.formula, answer.fused);
    if (!all_finite(answer.sums)) return std::nullopt;
    answer.order = best_first(answer.sums);
    for (std::size_t i = 0; i < docs.size(); ++i) {
      docs[i] = fused[static_cast<std::size_t>(answer.order[i])];
    }
  }
  auto rows = std::make_unique<PairRows>(*question.packer, question.store, question.query, std::move(docs));
  for (const std::int32_t length : rows->lengths()) answer.tokens += length;
  RequestOptions options;
  options.priority = question.priority;
  answer.seconds = cost.seconds(rows->lengths());
  if (!std::isinf(limit.allowance_s)) {
    const double run_s = answer.seconds + limit.handover_s;
    if (limit.wait_s + limit.margin * run_s > limit.allowance_s) return std::nullopt;
    const std::chrono::duration<double> left(limit.allowance_s - run_s);
    options.deadline = Clock::now() + std::chrono::duration_cast<Clock::duration>(left);
  }
  answer.deadline = options.deadline;
  answer.ticket = scorer.prepare(std::move(rows), options);
  return answer;
}

}  // namespace searchpipe::runtime
