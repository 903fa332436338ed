#include "cuda/nvtx.h"

#include <atomic>

namespace searchpipe::nvtx {
namespace {

std::atomic<Push> active_push{nullptr};
std::atomic<Pop> active_pop{nullptr};

}  // namespace

void set_functions(Push push, Pop pop) {
  // Whoever sees the new push sees its pop. The old pop stays, for ranges that are open.
  if (push != nullptr) active_pop.store(pop, std::memory_order_relaxed);
  active_push.store(push, std::memory_order_release);
}

Push push_function() { return active_push.load(std::memory_order_acquire); }

Pop pop_function() { return active_pop.load(std::memory_order_relaxed); }

}  // namespace searchpipe::nvtx
