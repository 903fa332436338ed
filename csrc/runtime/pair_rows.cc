#include "runtime/pair_rows.h"

#include <utility>

namespace searchpipe::runtime {
namespace {

OutputMatrix matrix(std::int32_t* data, std::size_t rows, std::int32_t width) {
  return {reinterpret_cast<std::byte*>(data), ElementType::kInt32, static_cast<std::int64_t>(rows), width,
          static_cast<std::ptrdiff_t>(width) * static_cast<std::ptrdiff_t>(sizeof(std::int32_t))};
}

}  // namespace

PairRows::PairRows(const PairPacker& packer, std::shared_ptr<const TokenStore> store,
                   std::vector<std::int32_t> query, std::vector<std::int32_t> docs)
    : packer_(packer), store_(std::move(store)), query_(std::move(query)), docs_(std::move(docs)) {
  lengths_.resize(docs_.size());
  packer_.lengths(query_, docs_, *store_, lengths_);
}

std::vector<std::int32_t> PairRows::write(std::span<const std::int32_t> rows, const RowMemory& memory) const {
  std::vector<std::int32_t> docs;
  docs.reserve(rows.size());
  for (const std::int32_t row : rows) docs.push_back(docs_[static_cast<std::size_t>(row)]);
  const std::span<const std::int32_t> queries[] = {query_};
  if (memory.layout == RowLayout::kPacked) {
    return packer_.pack_flat({queries, {}, docs}, *store_, {memory.ids, memory.types}).permutation;
  }
  PackOutputs out{
      matrix(memory.ids, rows.size(), memory.width), matrix(memory.mask, rows.size(), memory.width), {}};
  if (memory.types != nullptr) out.token_type_ids = matrix(memory.types, rows.size(), memory.width);
  return packer_.pack({queries, {}, docs}, *store_, out).permutation;
}

}  // namespace searchpipe::runtime
