#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "bindings/gil.h"
#include "runtime/scorer.h"

// How Python waits for a scorer's requests: in slices, so that signals come through, with functions of its
// own that are called meanwhile.
namespace searchpipe::bindings {

constexpr double kSignalCheckSeconds = 0.1;  // how late Ctrl-C may come through a wait

// `wait(seconds)` again and again without the GIL, until it answers true or the time is up.
template <class Wait>
bool wait_in_slices(std::optional<double> timeout, Wait wait) {
  if (timeout && std::isnan(*timeout)) throw pybind11::value_error("timeout is NaN; pass seconds, or None");
  const auto start = runtime::Clock::now();
  for (;;) {
    double slice = kSignalCheckSeconds;
    if (timeout) {
      const double left = *timeout - std::chrono::duration<double>(runtime::Clock::now() - start).count();
      slice = std::min(slice, std::max(left, 0.0));
    }
    {
      ReleaseGil release;
      if (wait(slice)) return true;
    }
    if (PyErr_CheckSignals() != 0) throw pybind11::error_already_set();
    if (timeout && std::chrono::duration<double>(runtime::Clock::now() - start).count() >= *timeout)
      return false;
  }
}

// `first(seconds, meanwhile, before_end)` once, then `again(seconds)`, until one of them says that it has
// ended.
template <class First, class Again>
bool run_with_callbacks(std::optional<double> timeout, const std::optional<pybind11::function>& meanwhile,
                        const std::optional<pybind11::function>& before_end, First first, Again again) {
  std::exception_ptr raised;
  const auto call = [&raised](const std::optional<pybind11::function>& function) -> std::function<void()> {
    if (!function) return nullptr;
    return [&raised, &function] {
      AcquireGil acquire;
      try {
        call_python(*function, pybind11::tuple());
      } catch (...) {
        if (!raised) raised = std::current_exception();
      }
    };
  };
  const std::function<void()> spare = call(meanwhile);
  const std::function<void()> late = call(before_end);
  bool begun = false;
  return wait_in_slices(timeout, [&](double seconds) {
    const bool ended = std::exchange(begun, true) ? again(seconds) : first(seconds, spare, late);
    // What it raised is handed on without the GIL, which its holder takes again before it looks.
    if (raised) std::rethrow_exception(std::exchange(raised, nullptr));
    return ended;
  });
}

// What Scorer.begin gives.
class Flight {
 public:
  Flight(runtime::Scorer& scorer, std::shared_ptr<runtime::Ticket> ticket)
      : scorer_(scorer), ticket_(std::move(ticket)) {
    const ReleaseGil release;
    flight_.emplace(scorer_.begin(ticket_));
  }
  bool finish(std::optional<double> timeout, const std::optional<pybind11::function>& meanwhile,
              const std::optional<pybind11::function>& before_end) {
    return run_with_callbacks(
        timeout, meanwhile, before_end,
        [&](double seconds, const auto& spare, const auto& late) {
          return scorer_.finish(*flight_, seconds, spare, late);
        },
        [&](double seconds) { return ticket_->wait(seconds); });
  }

 private:
  runtime::Scorer& scorer_;
  std::shared_ptr<runtime::Ticket> ticket_;
  std::optional<runtime::LoneFlight> flight_;
};

}  // namespace searchpipe::bindings
