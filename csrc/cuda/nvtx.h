#pragma once

#include <string>
#include <utility>

namespace searchpipe::nvtx {

// nvtxRangePushA and nvtxRangePop of NVIDIA's library.
using Push = int (*)(const char*);
using Pop = int (*)();

// Ranges are recorded through these from now on; nulls record no more. Any thread, at any time.
void set_functions(Push push, Pop pop);
Push push_function();
Pop pop_function();

// A named range of the calling thread for Nsight. While ranges are off it costs one relaxed load, and
// `name` (a callable that returns a std::string) is not called.
class Range {
 public:
  template <typename Name>
  explicit Range(Name&& name) {
    const Push push = push_function();
    if (push == nullptr) return;
    pop_ = pop_function();
    push(std::forward<Name>(name)().c_str());
  }
  ~Range() {
    if (pop_ != nullptr) pop_();
  }
  Range(const Range&) = delete;
  Range& operator=(const Range&) = delete;

 private:
  Pop pop_ = nullptr;
};

}  // namespace searchpipe::nvtx
