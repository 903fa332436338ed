#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "core/token_store.h"

namespace searchpipe {

struct SpecialTokens {
  std::int32_t cls;
  std::int32_t sep;
  std::int32_t pad;
};

// In tokens. A row is [CLS] query [SEP] document [SEP]; max_tokens includes the three special tokens.
struct PairLimits {
  std::int32_t max_query_tokens;
  std::int32_t max_doc_tokens;
  std::int32_t max_tokens;
};

// Pairs in the caller's order: docs[i] belongs to queries[query_of_row[i]], or to queries[0] where
// query_of_row is empty.
struct PairBatch {
  std::span<const std::span<const std::int32_t>> queries;
  std::span<const std::int32_t> query_of_row;
  std::span<const std::int32_t> docs;
};

// Rows are ordered longest first; equal lengths keep the caller's order.
struct PackedLayout {
  std::int64_t width = 0;                 // tokens of the longest row
  std::int64_t total_tokens = 0;          // of all rows, without padding
  std::vector<std::int32_t> lengths;      // tokens of each row
  std::vector<std::int32_t> permutation;  // row -> position in the caller's docs
};

enum class ElementType { kInt32, kInt64 };

// A caller's 2-D buffer; elements of a row are adjacent, rows are row_stride bytes apart (negative is
// allowed).
struct OutputMatrix {
  std::byte* data;
  ElementType type;
  std::int64_t rows;
  std::int64_t columns;
  std::ptrdiff_t row_stride;
};

struct PackOutputs {
  OutputMatrix input_ids;
  OutputMatrix attention_mask;
  std::optional<OutputMatrix> token_type_ids;
};

// Writes the inputs of a BERT-like cross-encoder straight into the caller's buffers.
//
// Truncation, for a query of q and a document of d tokens, keeps the first
//   q' = min(q, max_query_tokens) and d' = min(d, max_doc_tokens, max_tokens - 3 - q')
// tokens: where both together are too long, the document gives way.
// Immutable: any number of threads may call everything at once.
class PairPacker {
 public:
  // Throws std::invalid_argument for limits that leave no room.
  PairPacker(SpecialTokens special, PairLimits limits);

  // Throws std::out_of_range for a document or query that does not exist, std::invalid_argument for arrays of
  // different lengths or negative token ids.
  PackedLayout layout(const PairBatch& batch, const TokenStore& store) const;

  // Tokens of the row of one query and each of `docs`, in the order of `docs`; returns their sum. `out` is as
  // long as `docs`. Has the documents' tokens fetched, which are packed soon after. Throws as layout() does.
  std::int64_t lengths(std::span<const std::int32_t> query, std::span<const std::int32_t> docs,
                       const TokenStore& store, std::span<std::int32_t> out) const;

  // The same, and where the tokens are that are kept of each document.
  std::int64_t lengths(std::span<const std::int32_t> query, std::span<const std::int32_t> docs,
                       const TokenStore& store, std::span<std::int32_t> out,
                       std::span<TokenRange> kept) const;

  // Writes the ids of one row to `out`, without padding, and returns where it ends. `document` is what
  // lengths() gave as kept behind this query.
  std::int32_t* write_row(std::span<const std::int32_t> query, TokenRange document, const TokenStore& store,
                          std::int32_t* out) const;
  // Tokens of [CLS] query [SEP], the part of a row in front of its document.
  std::int32_t tokens_before_document(std::span<const std::int32_t> query) const;

  // Fills rows 0..n - 1 of each buffer, all columns; rows after them are left as they are. Throws as layout()
  // does, and std::invalid_argument for a buffer that is too small, in which case nothing was written.
  PackedLayout pack(const PairBatch& batch, const TokenStore& store, const PackOutputs& outputs) const;

  const SpecialTokens& special() const { return special_; }
  const PairLimits& limits() const { return limits_; }

  // No model takes more; keeps the token counts of many rows far from overflow.
  static constexpr std::int32_t kLargestMaxTokens = 1 << 20;

 private:
  struct Row;
  // Tokens kept of a query, and of a document behind it.
  std::int32_t kept_of_query(std::size_t tokens) const;
  std::int32_t kept_of_document(std::int32_t tokens, std::int32_t query_tokens) const;
  std::vector<Row> plan(const PairBatch& batch, const TokenStore& store, PackedLayout& layout) const;
  template <class Id>
  Id* write_ids(const Row& row, const TokenStore& store, Id* out) const;
  template <class Id>
  void write_ids(std::span<const Row> rows, const TokenStore& store, const OutputMatrix& out) const;

  SpecialTokens special_;
  PairLimits limits_;
};

}  // namespace searchpipe
