#pragma once

#include <vector>

#include "runtime/row_source.h"

namespace searchpipe::runtime {

// Rows [CLS] text [SEP]: queries on their way to the encoder.
class TextRows final : public RowSource {
 public:
  // `texts`: token ids without special tokens. Texts longer than max_tokens - 2 are cut there.
  TextRows(std::vector<std::vector<std::int32_t>> texts, std::int32_t cls_id, std::int32_t sep_id,
           std::int32_t pad_id, std::int32_t max_tokens);

  std::vector<std::int32_t> write(std::span<const std::int32_t> rows, const RowMemory& memory) const override;

 private:
  std::vector<std::vector<std::int32_t>> texts_;
  std::int32_t cls_id_;
  std::int32_t sep_id_;
  std::int32_t pad_id_;
};

}  // namespace searchpipe::runtime
