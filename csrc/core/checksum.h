#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace searchpipe {

// XXH64 with seed 0, as its specification defines it (xxHash fast digest algorithm, version 0.1.1), fed in
// pieces of any size. It finds accidents (a torn write, a flipped bit), not forgeries. One thread at a time.
class Checksum {
 public:
  Checksum();

  void update(std::span<const std::byte> bytes);

  // The value over everything fed so far; more may follow.
  std::uint64_t value() const;

 private:
  void stripe(const std::byte* bytes);

  static constexpr std::size_t kStripeBytes = 32;

  std::array<std::uint64_t, 4> lanes_;
  std::array<std::byte, kStripeBytes> pending_;
  std::size_t pending_bytes_ = 0;
  std::uint64_t total_bytes_ = 0;
};

std::uint64_t checksum(std::span<const std::byte> bytes);

}  // namespace searchpipe
