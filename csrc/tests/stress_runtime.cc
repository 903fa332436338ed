// The scorer and the staging ring under many threads, for ThreadSanitizer and
// AddressSanitizer: no Python, the fake CUDA driver underneath.
//
//   g++ -std=c++20 -g -O1 -fsanitize=thread -Icsrc csrc/tests/stress_runtime.cc csrc/{core,cuda,runtime}/*.cc
//   SEARCHPIPE_LIBCUDA=fake_cuda.so ./a.out      (the fake built with the same sanitizer)
//
// Exits with 0 and "ok" if every score was right, 1 with the first mistake.

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "cuda/device.h"
#include "cuda/error.h"
#include "runtime/graph_engine.h"
#include "runtime/host_executor.h"
#include "runtime/readback.h"
#include "runtime/scorer.h"
#include "runtime/staging_ring.h"
#include "runtime/text_rows.h"
#include "tests/fake_cuda/fake_kernels.h"

namespace {

using namespace searchpipe;
using namespace searchpipe::runtime;

constexpr unsigned kThreads = 6;
constexpr int kRequests = 60;
constexpr std::int32_t kMaxTokens = 32;
constexpr std::int32_t kWidth = 2;
const std::vector<Bucket> kBuckets = {{2, 16}, {8, 16}, {8, 32}};
const std::vector<Bucket> kPackedBuckets = {{2, 20}, {8, 64}, {16, 100}};

std::atomic<int> mistakes{0};

void mistake(const std::string& what) {
  if (mistakes.fetch_add(1) == 0) std::fprintf(stderr, "%s\n", what.c_str());
}

EngineShape shape(bool packed = false) {
  if (packed) return {kPackedBuckets, 6, kWidth, RowLayout::kPacked, kMaxTokens};
  return {kBuckets, 3, kWidth};
}

struct Launch {
  fake_cuda::Kernel kernel = nullptr;
  std::vector<std::uint64_t> arguments;
};

// As a batch of which it pays to know the end beforehand.
void slow_row_scores(const std::uint64_t* arguments) {
  std::this_thread::sleep_for(std::chrono::milliseconds(3));
  fake_cuda::row_scores(arguments);
}

void compute(void* data) {
  const auto* launch = static_cast<Launch*>(data);
  launch->kernel(launch->arguments.data());
}

// The row model as a host function in the stream: works on the fake, whose device memory is host memory.
std::shared_ptr<GraphEngine> device_engine(const std::shared_ptr<cuda::Device>& device, bool capture,
                                           bool packed = false, bool slow = false) {
  auto engine = std::make_shared<GraphEngine>(device, shape(packed));
  auto launches = std::make_shared<std::vector<Launch>>(engine->shape().buckets.size());
  engine->set_enqueue([launches, packed, slow](int index, const Bucket& bucket,
                                               const GraphEngine::Addresses& at, cuda::StreamHandle stream) {
    Launch& launch = (*launches)[static_cast<std::size_t>(index)];
    if (launch.kernel == nullptr) {  // the same for every launch of a bucket: written once
      launch.arguments = at.inputs;
      const std::int32_t last = packed ? kMaxTokens : bucket.tokens;
      for (const std::uint64_t value : {at.output, static_cast<std::uint64_t>(bucket.rows),
                                        static_cast<std::uint64_t>(last), std::uint64_t{kWidth}}) {
        launch.arguments.push_back(value);
      }
      launch.kernel = packed ? fake_cuda::packed_row_scores : fake_cuda::row_scores;
      if (slow) launch.kernel = slow_row_scores;
    }
    // Something to become a kernel of the captured graph.
    const std::size_t bytes = static_cast<std::size_t>(bucket.rows) * sizeof(float);
    cuda::check(cuda::driver().cuMemsetD8Async(at.output, 0xff, bytes, stream), "cuMemsetD8Async");
    cuda::check(cuda::driver().cuLaunchHostFunc(stream, compute, &launch), "cuLaunchHostFunc");
  });
  engine->prepare(capture);
  return engine;
}

std::vector<float> expected(const std::vector<std::int32_t>& text) {
  std::vector<std::int32_t> ids = {101};
  ids.insert(ids.end(), text.begin(), text.end());
  ids.push_back(102);
  const std::vector<std::int32_t> mask(ids.size(), 1);
  const std::vector<std::int32_t> types(ids.size(), 0);
  std::vector<float> out(kWidth);
  const std::uint64_t arguments[] = {reinterpret_cast<std::uint64_t>(ids.data()),
                                     reinterpret_cast<std::uint64_t>(mask.data()),
                                     reinterpret_cast<std::uint64_t>(types.data()),
                                     reinterpret_cast<std::uint64_t>(out.data()),
                                     1,
                                     ids.size(),
                                     kWidth};
  fake_cuda::row_scores(arguments);
  return out;
}

void check(const Ticket& ticket, const std::vector<std::vector<std::int32_t>>& texts) {
  if (ticket.status() != TicketStatus::kDone) return;
  for (std::size_t row = 0; row < texts.size(); ++row) {
    const std::vector<float> wanted = expected(texts[row]);
    for (std::size_t j = 0; j < kWidth; ++j) {
      const float found = ticket.scores()[row * kWidth + j];
      if (found == found && found != wanted[j]) mistake("wrong score");  // NaN: the deadline came first
    }
  }
}

// For ever, for a moment, or until somebody cancels.
void run(Scorer& scorer, const TicketPtr& ticket, unsigned choice, bool cancelled) {
  if (cancelled) {
    std::thread other([ticket, choice] {
      std::this_thread::sleep_for(std::chrono::microseconds(choice % 300));
      ticket->cancel();
    });
    try {
      scorer.run(ticket, 60.0);
    } catch (...) {
      other.join();
      throw;
    }
    other.join();
  } else {
    scorer.run(ticket, choice % 4 == 0 ? 1e-6 * (choice % 200) : 60.0);
  }
}

void client(Scorer& scorer, unsigned seed, unsigned pause_us) {
  std::mt19937 random(seed);
  for (int i = 0; i < kRequests; ++i) {
    std::vector<std::vector<std::int32_t>> texts(random() % 12);
    for (auto& text : texts) {
      text.resize(random() % (kMaxTokens - 1));
      for (auto& id : text) id = static_cast<std::int32_t>(random() % 30000);
    }
    RequestOptions options;
    options.priority = static_cast<std::int32_t>(random() % 3);
    if (random() % 8 == 0) options.deadline = Clock::now() + std::chrono::microseconds(random() % 500);
    const TicketPtr ticket =
        scorer.prepare(std::make_unique<TextRows>(texts, 101, 102, 0, kMaxTokens), options);
    auto counter = std::make_shared<std::atomic<int>>(0);
    ticket->on_done([counter] { ++*counter; });
    const bool cancelled = random() % 8 == 0;
    try {
      if (random() % 2 == 0) {
        run(scorer, ticket, random(), cancelled);
      } else {
        scorer.submit(ticket);
        if (cancelled) ticket->cancel();
      }
    } catch (const QueueFull&) {
      continue;
    } catch (const ScorerClosed&) {
      return;
    }
    if (!ticket->wait(60.0)) mistake("a request was never ended");
    check(*ticket, texts);
    // Gaps, so that some find the scorer idle and are alone.
    if (random() % 2 == 0) std::this_thread::sleep_for(std::chrono::microseconds(random() % pause_us));
  }
}

void stress(const std::shared_ptr<Executor>& executor, bool close_early, unsigned clients) {
  Scorer scorer(executor, {200, 0, 0.0002});
  std::vector<std::thread> threads;
  for (unsigned seed = 0; seed < clients; ++seed) {
    threads.emplace_back([&, seed] { client(scorer, seed, clients == 1 ? 1 : 2000); });
  }
  if (close_early) {
    if (clients < kThreads) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    scorer.close(false);
  }
  for (std::thread& thread : threads) thread.join();
  scorer.close(true);
  const ScorerStats stats = scorer.stats();
  if (stats.queued_rows != 0 || stats.batches_in_flight != 0) mistake("something was left behind");
  if (clients == 1 && !close_early && executor->watched() && stats.lone_batches == 0) {
    mistake("a lone caller was never alone");
  }
}

// Callers whose own streams follow their batches: what those read must be complete when they read it.
void follow(const std::shared_ptr<Executor>& executor, const std::shared_ptr<cuda::Device>& device,
            unsigned clients) {
  Scorer scorer(executor);
  std::atomic<int> followed = 0;
  const auto client = [&](unsigned seed) {
    std::mt19937 random(seed);
    constexpr std::size_t bytes = kWidth * sizeof(float);
    const cuda::DeviceBuffer place(device, bytes);
    cuda::Stream stream(device);
    Readback result(device, bytes);
    for (int i = 0; i < kRequests; ++i) {
      std::vector<std::int32_t> text(random() % (kMaxTokens - 1));
      for (auto& id : text) id = static_cast<std::int32_t>(random() % 30000);
      const std::vector<std::vector<std::int32_t>> texts = {text};
      RequestOptions options;
      options.device_output = place.address();
      const TicketPtr ticket =
          scorer.prepare(std::make_unique<TextRows>(texts, 101, 102, 0, kMaxTokens), options);
      TicketPtr before;
      scorer.run(ticket, 60.0, [&] {
        before = Scorer::follow_launched(place.address(), reinterpret_cast<std::uintptr_t>(stream.handle()));
        if (before == nullptr) return;
        stream.copy_on_device(result.address(), place.address(), bytes);
        result.fetch(stream.handle(), bytes);
      });
      check(*ticket, texts);
      if (before == nullptr) continue;
      ++followed;
      if (!result.wait(60.0)) mistake("a result never came");
      const std::vector<float> wanted = expected(text);
      if (std::memcmp(result.host(), wanted.data(), bytes) != 0)
        mistake("a stream did not wait for its batch");
      if (!before->holds(wanted)) mistake("a ticket does not know its scores");
    }
  };
  std::vector<std::thread> threads;
  for (unsigned seed = 0; seed < clients; ++seed) threads.emplace_back(client, seed);
  for (std::thread& thread : threads) thread.join();
  if (clients == 1 && followed != kRequests) mistake("a lone caller's batch was not followed");
}

// Who is alone is called before the end now and then, and never twice; others are in nobody's way.
void call_before_end(const std::shared_ptr<Executor>& executor, unsigned clients) {
  Scorer scorer(executor);
  std::atomic<int> calls = 0;
  const std::vector<std::vector<std::int32_t>> texts(3, std::vector<std::int32_t>(5, 2000));
  const auto client = [&](unsigned seed) {
    const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    // A machine that is busy with other things may be too slow for the call again and again.
    const auto go_on = [&](int i) {
      return i < kRequests / 3 || (clients == 1 && calls == 0 && std::chrono::steady_clock::now() < give_up);
    };
    for (int i = 0; go_on(i); ++i) {
      const TicketPtr ticket =
          scorer.prepare(std::make_unique<TextRows>(texts, 101, 102, 0, kMaxTokens), RequestOptions{});
      int called = 0;
      scorer.run(ticket, 60.0, nullptr, [&] {
        if (ticket->done()) mistake("called after the end");
        ++called;
      });
      if (!ticket->done() || called > 1) mistake("called twice, or no end");
      check(*ticket, texts);
      calls += called;
      std::this_thread::sleep_for(std::chrono::microseconds(1500 * seed));
    }
  };
  std::vector<std::thread> threads;
  for (unsigned seed = 0; seed < clients; ++seed) threads.emplace_back(client, seed);
  for (std::thread& thread : threads) thread.join();
  if (clients == 1 && calls == 0) mistake("a lone caller was never called before the end");
}

// Many callers, a few that come and go, and one.
void stress(const std::shared_ptr<Executor>& executor, bool close_early) {
  for (const unsigned clients : {kThreads, 2U, 1U}) stress(executor, close_early, clients);
}

}  // namespace

int main() {
  const HostExecutor::Compute on_host = [](const SlotView& view, const Bucket& bucket) {
    const std::uint64_t arguments[] = {reinterpret_cast<std::uint64_t>(view.ids),
                                       reinterpret_cast<std::uint64_t>(view.mask),
                                       reinterpret_cast<std::uint64_t>(view.types),
                                       reinterpret_cast<std::uint64_t>(view.output),
                                       static_cast<std::uint64_t>(bucket.rows),
                                       static_cast<std::uint64_t>(bucket.tokens),
                                       kWidth};
    fake_cuda::row_scores(arguments);
  };
  for (const bool close_early : {false, true}) {
    stress(std::make_shared<HostExecutor>(shape(), on_host, 2), close_early);
    if (!cuda::availability().available) {
      std::fprintf(stderr, "no driver: %s\n", cuda::availability().reason.c_str());
      return 1;
    }
    const std::shared_ptr<cuda::Device> device = cuda::Device::open(0);
    for (const unsigned clients : {1U, 3U}) {
      follow(std::make_shared<StagingRing>(std::vector{device_engine(device, true)}, 3), device, clients);
      call_before_end(std::make_shared<StagingRing>(std::vector{device_engine(device, true, false, true)}, 3),
                      clients);
    }
    stress(std::make_shared<StagingRing>(std::vector{device_engine(device, true)}, 3), close_early);
    stress(std::make_shared<StagingRing>(
               std::vector{device_engine(device, true), device_engine(device, false)}, 4),
           close_early);
    stress(std::make_shared<StagingRing>(std::vector{device_engine(device, true, true)}, 3), close_early);
    stress(std::make_shared<StagingRing>(
               std::vector{device_engine(device, true, true), device_engine(device, false, true)}, 4),
           close_early);
  }
  if (mistakes > 0) return 1;
  std::puts("ok");
  return 0;
}
