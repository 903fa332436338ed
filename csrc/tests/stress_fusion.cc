// Many threads fuse lists at once, from the same read-only input and from extreme input of their own.

#include <cmath>
#include <limits>
#include <map>
#include <random>
#include <stdexcept>

#include "core/fusion.h"
#include "tests/check.h"

using searchpipe::FusedList;
using searchpipe::Normalization;
using searchpipe::ScoredList;
namespace stress = searchpipe::stress;

namespace {

using Docs = std::vector<std::int32_t>;

void check_order(const FusedList& fused) {
  CHECK(fused.docs.size() == fused.scores.size());
  for (std::size_t i = 1; i < fused.scores.size(); ++i) CHECK(fused.scores[i - 1] >= fused.scores[i]);
}

void fuse_at_random(std::mt19937& random) {
  std::vector<Docs> lists(random() % 5);
  std::map<std::int32_t, double> expected;
  std::vector<std::span<const std::int32_t>> spans;
  std::vector<std::vector<float>> scores(lists.size());
  std::vector<ScoredList> scored;
  for (std::size_t list = 0; list < lists.size(); ++list) {
    const std::size_t size = random() % 200;
    const auto start = static_cast<std::int32_t>(random() % 100);
    // Close to the largest ordinal, in a step that makes hashes meet.
    for (std::size_t i = 0; i < size; ++i) {
      const auto doc =
          std::numeric_limits<std::int32_t>::max() - (start + static_cast<std::int32_t>(i)) * 4096;
      lists[list].push_back(doc);
      expected[doc] += 1.0 / (60.0 + static_cast<double>(i + 1));
      scores[list].push_back(static_cast<float>(random() % 7) * 5e37F);
    }
    spans.push_back(lists[list]);
    scored.push_back({lists[list], scores[list]});
  }
  const FusedList fused = searchpipe::reciprocal_rank_fusion(spans, {}, 60.0, 0);
  check_order(fused);
  CHECK(fused.docs.size() == expected.size());
  for (std::size_t i = 0; i < fused.docs.size(); ++i) {
    CHECK(std::abs(fused.scores[i] - expected.at(fused.docs[i])) < 1e-7);
  }
  const searchpipe::FusedColumns beside = searchpipe::fuse_with_columns(scored, {}, {});
  CHECK(beside.fused.docs == fused.docs);
  CHECK(beside.fused.scores == fused.scores);
  CHECK(beside.columns.size() == lists.size() * fused.docs.size());
  std::size_t known = 0;
  for (const float score : beside.columns) known += std::isnan(score) ? 0 : 1;
  std::size_t given = 0;
  for (const Docs& list : lists) given += list.size();
  CHECK(known == given);
  const auto limit = static_cast<std::int64_t>(1 + random() % 50);
  const FusedList best = searchpipe::reciprocal_rank_fusion(spans, {}, 60.0, limit);
  CHECK(best.docs.size() == std::min(expected.size(), static_cast<std::size_t>(limit)));
  CHECK(std::equal(best.docs.begin(), best.docs.end(), fused.docs.begin()));
  for (const auto normalization : {Normalization::kMinMax, Normalization::kZScore}) {
    const FusedList by_score = searchpipe::fuse_scores(scored, {}, normalization, limit);
    check_order(by_score);
    CHECK(by_score.docs.size() == best.docs.size());
  }
}

void refuse() {
  const Docs docs{3, 4};
  const std::vector<std::span<const std::int32_t>> spans{docs};
  const std::vector<float> bad{1.0F, std::numeric_limits<float>::quiet_NaN()};
  const std::vector<float> one{1.0F};
  const std::vector<float> huge{3e38F, 3e38F};
  const std::vector<double> weights{1e308};
  const auto fuse = [&](std::span<const float> scores, std::span<const double> given, std::int64_t limit) {
    const std::vector<ScoredList> lists{{docs, scores}};
    return searchpipe::fuse_scores(lists, given, Normalization::kNone, limit);
  };
  stress::check_throws<std::invalid_argument>([&] { fuse(bad, {}, 0); });
  stress::check_throws<std::invalid_argument>([&] { fuse(one, {}, 0); });
  stress::check_throws<std::invalid_argument>([&] { fuse(huge, weights, 0); });
  stress::check_throws<std::invalid_argument>([&] { fuse(huge, {}, -1); });
  stress::check_throws<std::invalid_argument>(
      [&] { searchpipe::reciprocal_rank_fusion(spans, {}, -1.0, 0); });
  CHECK(fuse(huge, {}, std::numeric_limits<std::int64_t>::max()).docs == docs);
}

}  // namespace

int main() {
  const Docs shared(1000, 7);
  const std::vector<std::span<const std::int32_t>> lists{shared, shared};
  stress::in_threads(4, [&](int thread) {
    std::mt19937 random(static_cast<unsigned>(thread));
    for (int round = 0; round < 300; ++round) fuse_at_random(random);
    for (int round = 0; round < 20; ++round) {
      CHECK(searchpipe::reciprocal_rank_fusion(lists, {}, 60.0, 0).docs == Docs{7});
    }
    refuse();
  });
}
