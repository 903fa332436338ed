#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace searchpipe {

// What an order of documents says of one in it.
enum class OrderKind {
  kSource,  // "lexical rank 3", "not found by dense recall"
  kFused,   // "fused rank 1"
  kStage,   // "score moved it up 2", against the order before; nothing if it stayed
};

struct NamedOrder {
  std::string name;
  OrderKind kind;
  std::span<const std::int32_t> docs;  // best first
};

// Where each of `docs` stands in each of `orders`, in words, order by order. A pure function: any thread.
std::vector<std::vector<std::string>> place_reasons(std::span<const std::int32_t> docs,
                                                    std::span<const NamedOrder> orders);

}  // namespace searchpipe
