// Many threads record into one histogram while others merge it, read it and copy it.

#include <atomic>
#include <cmath>
#include <limits>
#include <random>
#include <stdexcept>

#include "core/histogram.h"
#include "tests/check.h"

using searchpipe::Histogram;
namespace stress = searchpipe::stress;

namespace {

constexpr int kRecorders = 4;
constexpr int kRounds = 2000;

void record(Histogram& histogram) {
  const std::vector<double> many{0.0, 1.0, 1e-12, 1e15};
  for (int round = 0; round < kRounds; ++round) {
    histogram.record(static_cast<double>(1 + round % 100));
    histogram.record_many(many);
  }
  stress::check_throws<std::invalid_argument>([&] { histogram.record(std::nan("")); });
  stress::check_throws<std::invalid_argument>([&] { histogram.record(-1.0); });
  stress::check_throws<std::invalid_argument>(
      [&] { histogram.record(std::numeric_limits<double>::infinity()); });
}

void read(const Histogram& histogram, Histogram& target, const std::atomic<bool>& done) {
  const std::vector<double> points{0.0, 0.5, 0.99, 1.0};
  std::uint64_t last = 0;
  while (!done.load()) {
    const auto values = histogram.quantiles(points);
    if (histogram.count() > 0 && !std::isnan(values[0])) {
      CHECK(values[0] <= values[1] && values[1] <= values[2] && values[2] <= values[3]);
      CHECK(values[0] >= 0.0 && values[3] <= 1e15);
    }
    const Histogram copy = Histogram::from_bytes(histogram.to_bytes());
    CHECK(copy.count() >= last);
    last = copy.count();
    target.merge(copy);
  }
}

void refuse_damaged_bytes(const Histogram& histogram) {
  const auto good = histogram.to_bytes();
  std::mt19937 random(9);
  for (int round = 0; round < 3000; ++round) {
    auto bad = good;
    bad[random() % bad.size()] ^= static_cast<std::byte>(1 << (random() % 8));
    if (round % 3 == 0) bad.resize(random() % bad.size());
    stress::check_throws<std::runtime_error>([&] { Histogram::from_bytes(bad); });
  }
}

}  // namespace

int main() {
  Histogram histogram(0.01);
  Histogram target(0.01);
  std::atomic<bool> done{false};
  std::thread first([&] { read(histogram, target, done); });
  std::thread second([&] { read(histogram, target, done); });
  stress::in_threads(kRecorders, [&](int) { record(histogram); });
  done.store(true);
  first.join();
  second.join();

  constexpr std::uint64_t kExpected = std::uint64_t{kRecorders} * kRounds * 5;
  CHECK(histogram.count() == kExpected);
  CHECK(histogram.min() == 0.0 && histogram.max() == 1e15);
  const Histogram copy = Histogram::from_bytes(histogram.to_bytes());
  CHECK(copy.count() == kExpected);
  histogram.merge(histogram);
  CHECK(histogram.count() == 2 * kExpected);
  refuse_damaged_bytes(copy);
}
