#pragma once

#include <memory>
#include <vector>

#include "core/pair_packer.h"
#include "core/token_store.h"
#include "runtime/row_source.h"

namespace searchpipe::runtime {

// Rows [CLS] query [SEP] document [SEP] of one query.
class PairRows final : public RowSource {
 public:
  // Throws std::out_of_range for a document that the store does not have.
  PairRows(const PairPacker& packer, std::shared_ptr<const TokenStore> store, std::vector<std::int32_t> query,
           std::vector<std::int32_t> docs);

  std::vector<std::int32_t> write(std::span<const std::int32_t> rows, const RowMemory& memory) const override;

 private:
  void write_packed(std::span<const std::int32_t> rows, const RowMemory& memory) const;

  PairPacker packer_;
  std::shared_ptr<const TokenStore> store_;
  std::vector<std::int32_t> query_;
  std::vector<std::int32_t> docs_;
  std::vector<TokenRange> documents_;  // what is kept of them
};

}  // namespace searchpipe::runtime
