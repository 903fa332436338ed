#pragma once

namespace searchpipe {

// A short break (some 0.5 us) in a loop that waits for something to change, for the sake of the core's other
// hardware thread and of whom the question disturbs.
inline void relax() {
  for (int i = 0; i < 16; ++i) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }
}

}  // namespace searchpipe
