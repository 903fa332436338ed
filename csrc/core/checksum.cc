#include "core/checksum.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace searchpipe {
namespace {

constexpr std::uint64_t kPrime1 = 0x9E3779B185EBCA87;
constexpr std::uint64_t kPrime2 = 0xC2B2AE3D27D4EB4F;
constexpr std::uint64_t kPrime3 = 0x165667B19E3779F9;
constexpr std::uint64_t kPrime4 = 0x85EBCA77C2B2AE63;
constexpr std::uint64_t kPrime5 = 0x27D4EB2F165667C5;

// The specification reads little-endian words; so does every platform that wheels are built for.
static_assert(std::endian::native == std::endian::little);

template <class Word>
std::uint64_t load(const std::byte* bytes) {
  Word word;
  std::memcpy(&word, bytes, sizeof(word));
  return word;
}

std::uint64_t round(std::uint64_t lane, std::uint64_t input) {
  return std::rotl(lane + input * kPrime2, 31) * kPrime1;
}

std::uint64_t avalanche(std::uint64_t hash) {
  hash = (hash ^ (hash >> 33)) * kPrime2;
  hash = (hash ^ (hash >> 29)) * kPrime3;
  return hash ^ (hash >> 32);
}

}  // namespace

Checksum::Checksum() : lanes_{kPrime1 + kPrime2, kPrime2, 0, 0 - kPrime1}, pending_{} {}

void Checksum::stripe(const std::byte* bytes) {
  for (std::size_t lane = 0; lane < lanes_.size(); ++lane) {
    lanes_[lane] = round(lanes_[lane], load<std::uint64_t>(bytes + 8 * lane));
  }
}

void Checksum::update(std::span<const std::byte> bytes) {
  total_bytes_ += bytes.size();
  if (pending_bytes_ > 0) {
    const std::size_t taken = std::min(kStripeBytes - pending_bytes_, bytes.size());
    std::copy_n(bytes.data(), taken, pending_.data() + pending_bytes_);
    pending_bytes_ += taken;
    bytes = bytes.subspan(taken);
    if (pending_bytes_ < kStripeBytes) return;
    stripe(pending_.data());
  }
  while (bytes.size() >= kStripeBytes) {
    stripe(bytes.data());
    bytes = bytes.subspan(kStripeBytes);
  }
  std::copy_n(bytes.data(), bytes.size(), pending_.data());
  pending_bytes_ = bytes.size();
}

std::uint64_t Checksum::value() const {
  std::uint64_t hash = kPrime5;
  if (total_bytes_ >= kStripeBytes) {
    hash = std::rotl(lanes_[0], 1) + std::rotl(lanes_[1], 7) + std::rotl(lanes_[2], 12) +
           std::rotl(lanes_[3], 18);
    for (const std::uint64_t lane : lanes_) hash = (hash ^ round(0, lane)) * kPrime1 + kPrime4;
  }
  hash += total_bytes_;

  const std::byte* next = pending_.data();
  const std::byte* const end = next + pending_bytes_;
  for (; end - next >= 8; next += 8) {
    hash = std::rotl(hash ^ round(0, load<std::uint64_t>(next)), 27) * kPrime1 + kPrime4;
  }
  for (; end - next >= 4; next += 4) {
    hash = std::rotl(hash ^ (load<std::uint32_t>(next) * kPrime1), 23) * kPrime2 + kPrime3;
  }
  for (; next != end; ++next) {
    hash = std::rotl(hash ^ (load<std::uint8_t>(next) * kPrime5), 11) * kPrime1;
  }
  return avalanche(hash);
}

std::uint64_t checksum(std::span<const std::byte> bytes) {
  Checksum sum;
  sum.update(bytes);
  return sum.value();
}

}  // namespace searchpipe
