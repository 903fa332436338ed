// Selections from many threads over shared input, on random and hostile data. Run under the sanitizers.

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <stdexcept>
#include <thread>
#include <vector>

#include "core/dpp.h"
#include "core/mmr.h"
#include "core/selection.h"

namespace {

using searchpipe::Quota;
using searchpipe::Quotas;
using searchpipe::RelevanceScale;
using searchpipe::Selection;

void expect(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "stress_diversity: %s\n", what);
  std::abort();
}

struct Case {
  std::size_t size, dim, k;
  double trade_off;
  std::vector<float> relevance, vectors;
  Quotas quotas;
};

Case make_case(std::mt19937& random) {
  const auto below = [&](std::size_t limit) { return static_cast<std::size_t>(random() % limit); };
  std::normal_distribution<float> normal;
  Case made{below(200), below(40), below(220), static_cast<double>(below(11)) / 10.0, {}, {}, {}};
  constexpr float kHostile[] = {
      std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
      std::numeric_limits<float>::max(),       std::numeric_limits<float>::denorm_min(),
      -std::numeric_limits<float>::max(),      0.0f};
  const bool hostile = below(2) == 0;
  for (std::size_t i = 0; i < made.size; ++i) made.relevance.push_back(normal(random));
  for (std::size_t i = 0; i < made.size * made.dim; ++i) {
    made.vectors.push_back(hostile && below(20) == 0 ? kHostile[below(6)] : normal(random));
  }
  for (std::size_t q = below(3); q > 0; --q) {
    std::vector<std::int32_t> groups(made.size);
    const std::size_t count = below(12) + 1;
    for (std::int32_t& group : groups) group = static_cast<std::int32_t>(below(count)) - 1;
    if (below(4) == 0 && !groups.empty()) groups[0] = std::numeric_limits<std::int32_t>::max();
    made.quotas.push_back(std::make_shared<const Quota>(groups.data(), groups.size(),
                                                        static_cast<std::int64_t>(below(3) + 1),
                                                        static_cast<std::int64_t>(below(15))));
  }
  return made;
}

void check(const Selection& selection, const Case& given) {
  const std::size_t places = std::min(given.k, given.size);
  expect(selection.order.size() == places && selection.gains.size() == places &&
             selection.relaxed.size() == places,
         "a selection has another length");
  std::vector<bool> seen(given.size, false);
  for (const std::int32_t candidate : selection.order) {
    expect(candidate >= 0 && static_cast<std::size_t>(candidate) < given.size && !seen[candidate],
           "a candidate is out of range or placed twice");
    seen[candidate] = true;
  }
  for (const float gain : selection.gains) expect(gain - gain == 0.0f, "a gain is not finite");
}

Selection run(const Case& given, int kind) {
  switch (kind) {
    case 0:
      return searchpipe::select_mmr(given.relevance.data(), given.vectors.data(), given.size, given.dim,
                                    given.k, given.trade_off, RelevanceScale::kMinMax, given.quotas);
    case 1:
      return searchpipe::select_dpp(given.relevance.data(), given.vectors.data(), given.size, given.dim,
                                    given.k, given.trade_off, given.quotas);
    default:
      return searchpipe::select_by_relevance(given.relevance.data(), given.size, given.k, given.quotas);
  }
}

bool refuses_bad_input() {
  const float bad[] = {1.0f, std::numeric_limits<float>::quiet_NaN()};
  int refused = 0;
  try {
    searchpipe::select_by_relevance(bad, 2, 1, {});
  } catch (const std::invalid_argument&) {
    ++refused;
  }
  try {
    searchpipe::select_dpp(bad, bad, 1, 1, 1, 2.0, {});
  } catch (const std::invalid_argument&) {
    ++refused;
  }
  const std::int32_t group = -7;
  try {
    const Quota quota(&group, 1, 1, 0);
  } catch (const std::invalid_argument&) {
    ++refused;
  }
  return refused == 3;
}

}  // namespace

int main() {
  expect(refuses_bad_input(), "bad input was not refused");
  std::mt19937 random(7);
  std::atomic<int> selections{0};
  for (int round = 0; round < 60; ++round) {
    const Case shared = make_case(random);
    const Selection expected[] = {run(shared, 0), run(shared, 1), run(shared, 2)};
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&] {
        for (int kind = 0; kind < 3; ++kind) {
          const Selection selection = run(shared, kind);
          check(selection, shared);
          expect(selection.order == expected[kind].order && selection.gains == expected[kind].gains,
                 "two threads got different answers");
          ++selections;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  std::printf("stress_diversity: %d selections agree\n", selections.load());
  return 0;
}
