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

  std::size_t size() const override { return texts_.size(); }
  std::int32_t length(std::size_t row) const override;
  void write(std::size_t row, std::int32_t width, std::int32_t* ids, std::int32_t* mask,
             std::int32_t* types) const override;

 private:
  std::vector<std::vector<std::int32_t>> texts_;
  std::int32_t cls_id_;
  std::int32_t sep_id_;
  std::int32_t pad_id_;
};

}  // namespace searchpipe::runtime
