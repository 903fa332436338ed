#include "runtime/text_rows.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

namespace searchpipe::runtime {
namespace {
constexpr std::int32_t kSpecialTokens = 2;  // [CLS] and [SEP]
}

void write_filler_row(std::int32_t width, std::int32_t* ids, std::int32_t* mask, std::int32_t* types) {
  std::fill_n(ids, width, 0);
  std::fill_n(mask, width, 0);
  mask[0] = 1;
  if (types != nullptr) std::fill_n(types, width, 0);
}

TextRows::TextRows(std::vector<std::vector<std::int32_t>> texts, std::int32_t cls_id, std::int32_t sep_id,
                   std::int32_t pad_id, std::int32_t max_tokens)
    : texts_(std::move(texts)), cls_id_(cls_id), sep_id_(sep_id), pad_id_(pad_id) {
  if (max_tokens <= kSpecialTokens) {
    throw std::invalid_argument("max_tokens is " + std::to_string(max_tokens) + ", must be more than 2");
  }
  for (std::vector<std::int32_t>& text : texts_) {
    text.resize(std::min(text.size(), static_cast<std::size_t>(max_tokens - kSpecialTokens)));
  }
}

std::int32_t TextRows::length(std::size_t row) const {
  return static_cast<std::int32_t>(texts_[row].size()) + kSpecialTokens;
}

void TextRows::write(std::size_t row, std::int32_t width, std::int32_t* ids, std::int32_t* mask,
                     std::int32_t* types) const {
  const std::vector<std::int32_t>& text = texts_[row];
  const std::int32_t filled = length(row);
  ids[0] = cls_id_;
  std::copy(text.begin(), text.end(), ids + 1);
  ids[filled - 1] = sep_id_;
  std::fill(ids + filled, ids + width, pad_id_);
  std::fill_n(mask, filled, 1);
  std::fill(mask + filled, mask + width, 0);
  if (types != nullptr) std::fill_n(types, width, 0);
}

}  // namespace searchpipe::runtime
