#include "runtime/text_rows.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>

namespace searchpipe::runtime {
namespace {
constexpr std::int32_t kSpecialTokens = 2;  // [CLS] and [SEP]
}

TextRows::TextRows(std::vector<std::vector<std::int32_t>> texts, std::int32_t cls_id, std::int32_t sep_id,
                   std::int32_t pad_id, std::int32_t max_tokens)
    : texts_(std::move(texts)), cls_id_(cls_id), sep_id_(sep_id), pad_id_(pad_id) {
  if (max_tokens <= kSpecialTokens) {
    throw std::invalid_argument("max_tokens is " + std::to_string(max_tokens) + ", must be more than 2");
  }
  lengths_.reserve(texts_.size());
  for (std::vector<std::int32_t>& text : texts_) {
    text.resize(std::min(text.size(), static_cast<std::size_t>(max_tokens - kSpecialTokens)));
    lengths_.push_back(static_cast<std::int32_t>(text.size()) + kSpecialTokens);
  }
}

std::vector<std::int32_t> TextRows::write(std::span<const std::int32_t> rows, const RowMemory& memory) const {
  RowMemory out = memory;
  for (const std::int32_t index : rows) {
    const auto row = static_cast<std::size_t>(index);
    const std::int32_t length = lengths_[row];
    const std::int32_t places = out.places(length);
    out.ids[0] = cls_id_;
    std::copy(texts_[row].begin(), texts_[row].end(), out.ids + 1);
    out.ids[length - 1] = sep_id_;
    std::fill(out.ids + length, out.ids + places, pad_id_);
    if (out.mask != nullptr) {
      std::fill_n(out.mask, length, 1);
      std::fill(out.mask + length, out.mask + places, 0);
    }
    if (out.types != nullptr) std::fill_n(out.types, places, 0);
    if (out.splits != nullptr) out.splits[0] = length;
    out = out.after(1, static_cast<std::size_t>(length));
  }
  std::vector<std::int32_t> order(rows.size());
  std::iota(order.begin(), order.end(), 0);
  return order;
}

}  // namespace searchpipe::runtime
