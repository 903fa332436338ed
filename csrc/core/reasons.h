#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace searchpipe {

// What an order of documents says of one in it.
enum class OrderKind {
  kSource,  // "lexical rank 3", "not found by dense recall"
  kFused,   // "fused rank 1"
  kStage,   // "score moved it up 2", against the order before; nothing if it stayed
};

struct NamedOrder {
  std::string_view name;
  OrderKind kind;
  std::span<const std::int32_t> docs;  // best first
};

// Where each of `docs` stands in each of `orders`, in words, order by order.
class PlaceReasons {
 public:
  // Borrows `orders`' arrays while it is made, and their names for as long as it lives.
  PlaceReasons(std::span<const std::int32_t> docs, std::vector<NamedOrder> orders);

  // Calls `say` with each reason of document number `row` of `docs`; the text is valid during the call. One
  // thread at a time.
  template <class Say>
  void tell(std::size_t row, Say&& say) {
    std::int32_t before = 0;
    for (std::size_t i = 0; i < orders_.size(); ++i) {
      const std::int32_t place = places_[i * count_ + row];
      if (word(orders_[i], place, before)) say(std::string_view(text_));
      if (orders_[i].kind != OrderKind::kSource && place != 0) before = place;
    }
  }

 private:
  // Leaves the reason in text_; false if there is nothing to say.
  bool word(const NamedOrder& order, std::int32_t place, std::int32_t before);

  std::size_t count_;
  std::vector<NamedOrder> orders_;
  std::vector<std::int32_t> places_;  // (orders, docs), from 1; 0 where it is absent
  std::string text_;
};

}  // namespace searchpipe
