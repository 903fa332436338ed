// A batch planner behind a lock, as a scorer holds it: several threads add and cancel while one serves. Every
// row must be served once, dropped by its owner, or expire. Run under the sanitizers.

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <random>
#include <stdexcept>
#include <thread>
#include <vector>

#include "core/batch_planner.h"

namespace {

using searchpipe::BatchCost;
using searchpipe::BatchLimits;
using searchpipe::BatchPlanner;
using searchpipe::Decision;

void expect(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "stress_batch_planner: %s\n", what);
  std::abort();
}

struct Shared {
  std::mutex mutex;
  BatchPlanner planner{
      {.max_rows = 32, .token_budget = 2048, .max_queued_rows = 4000, .max_queued_requests = 200},
      {.base_s = 0.001, .token_s = 1e-6}};
  std::map<std::uint64_t, std::int64_t> rows_left;  // of what was accepted
  double now = 0.0;
  std::int64_t served = 0, dropped = 0, refused = 0;
};

void produce(Shared& shared, unsigned seed) {
  std::mt19937 random(seed);
  for (std::uint64_t i = 0; i < 1500; ++i) {
    const std::uint64_t id = std::uint64_t{seed} << 32 | i;
    std::vector<std::int32_t> lengths(random() % 80 + 1);
    auto length = static_cast<std::int32_t>(random() % 120 + 80);
    for (std::int32_t& one : lengths)
      one = length = std::max(1, length - static_cast<std::int32_t>(random() % 4));
    const std::lock_guard lock(shared.mutex);
    const double deadline = random() % 3 == 0 ? std::numeric_limits<double>::infinity() : shared.now + 0.02;
    const auto rows = static_cast<std::int64_t>(lengths.size());
    if (!shared.planner.add(id, std::move(lengths), shared.now, deadline, static_cast<int>(random() % 3))
             .accepted()) {
      ++shared.refused;
      continue;
    }
    shared.rows_left[id] = rows;
    if (random() % 8 == 0 && shared.planner.cancel(id)) {
      shared.dropped += shared.rows_left[id];
      shared.rows_left.erase(id);
    }
  }
}

void serve(Shared& shared, bool flush) {
  const std::lock_guard lock(shared.mutex);
  shared.now += 0.0005;
  for (const std::uint64_t id : shared.planner.expire(shared.now)) {
    shared.dropped += shared.rows_left.at(id);
    shared.rows_left.erase(id);
  }
  const Decision decision = shared.planner.next_batch(shared.now, flush);
  if (!decision.batch) {
    expect(decision.ask_again_at > shared.now, "told to ask again in the past");
    return;
  }
  expect(decision.batch->rows <= 32 && decision.batch->places <= 2048, "a batch exceeds its limits");
  for (const searchpipe::BatchPart& part : decision.batch->parts) {
    std::int64_t& left = shared.rows_left.at(part.request);
    expect(part.rows >= 1 && part.rows <= left, "rows were served twice");
    left -= part.rows;
    shared.served += part.rows;
    if (left == 0) shared.rows_left.erase(part.request);
  }
}

bool refuses_nonsense() {
  int refused = 0;
  const auto count = [&](auto&& call) {
    try {
      call();
    } catch (const std::invalid_argument&) {
      ++refused;
    }
  };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  BatchPlanner planner{BatchLimits{}, BatchCost{}};
  count([&] { planner.add(1, {}, 0.0, 1.0, 0); });
  count([&] { planner.add(1, {1, 2}, 0.0, 1.0, 0); });
  count([&] { planner.add(1, {1}, nan, 1.0, 0); });
  count([&] { planner.add(1, {1}, 0.0, nan, 0); });
  count([&] { planner.next_batch(nan, false); });
  count([&] { BatchPlanner{{.width_step = std::numeric_limits<std::int64_t>::max()}, BatchCost{}}; });
  return refused == 6 && planner.queued_requests() == 0;
}

}  // namespace

int main() {
  expect(refuses_nonsense(), "nonsense was not refused");
  Shared shared;
  std::atomic<int> producing{3};
  std::vector<std::thread> threads;
  for (unsigned seed = 1; seed <= 3; ++seed) {
    threads.emplace_back([&, seed] {
      produce(shared, seed);
      --producing;
    });
  }
  while (producing > 0) serve(shared, false);
  for (std::thread& thread : threads) thread.join();
  while (shared.planner.queued_requests() > 0) serve(shared, true);
  expect(shared.rows_left.empty(), "rows were lost");
  expect(shared.planner.queued_rows() == 0 && shared.planner.queued_tokens() == 0, "counts are off");
  expect(shared.served > 0, "nothing was served");
  std::printf("stress_batch_planner: %lld rows served, %lld dropped, %lld requests refused\n",
              static_cast<long long>(shared.served), static_cast<long long>(shared.dropped),
              static_cast<long long>(shared.refused));
  return 0;
}
