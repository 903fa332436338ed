// Many threads tell one cost model what steps took, while others ask it, relax it and list it.

#include <cmath>
#include <limits>
#include <random>
#include <stdexcept>

#include "core/cost_model.h"
#include "tests/check.h"

using searchpipe::CostModel;
namespace stress = searchpipe::stress;

namespace {

constexpr int kThreads = 6;
constexpr int kRounds = 4000;
const std::vector<std::string> kStages{"tokenize", "encode", "score", "stage:score"};

void use(CostModel& costs, int thread) {
  std::mt19937 random(static_cast<unsigned>(thread));
  std::uniform_real_distribution<double> size(1.0, 1e5), seconds(1e-6, 1.0);
  for (int round = 0; round < kRounds; ++round) {
    const std::string& stage = kStages[random() % kStages.size()];
    const double wanted = size(random);
    switch (thread % 3) {
      case 0:
        costs.observe(stage, wanted, seconds(random));
        break;
      case 1: {
        const auto known = costs.predict(stage, wanted);
        CHECK(!known || (*known >= 0.0 && std::isfinite(*known)));
        const auto items = costs.largest_within(stage, wanted, 64, seconds(random));
        CHECK(items >= 0 && items <= 64);
        break;
      }
      default:
        costs.relax(stage, wanted, round * 0.01);
        if (round % 100 == 0) {
          for (const auto& one : costs.typical()) CHECK(one.size >= 1.0 && one.seconds > 0.0);
        }
    }
  }
}

}  // namespace

int main() {
  CostModel costs({});
  CHECK(!costs.predict("score", 10.0));
  stress::in_threads(kThreads, [&](int thread) { use(costs, thread); });
  CHECK(costs.predict("score", 10.0).has_value());
  const double endless = std::numeric_limits<double>::infinity();
  costs.observe("new", endless, 1.0);
  costs.observe("new", 1.0, std::nan(""));
  CHECK(!costs.predict("new", 1.0));
  stress::check_throws<std::invalid_argument>([&] { costs.predict("score", endless); });
  return 0;
}
