#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "core/file.h"
#include "core/token_store_format.h"

namespace searchpipe {

// Where a document's tokens are.
struct TokenRange {
  std::uint64_t begin;
  std::int32_t length;
};

// Token ids of documents 0..size() - 1, memory-mapped from a file that TokenStoreWriter made.
// Immutable after construction: any number of threads may call everything at once.
class TokenStore {
 public:
  // Every field of the header is checked against the file's real size before it is used. `verify` also reads
  // the whole file once and checks the checksums, the offsets and the ids; without it a damaged file may give
  // wrong tokens, never an access outside the file. Throws IoError, or std::runtime_error that says what is
  // wrong with the file.
  explicit TokenStore(std::string path, bool verify = true);

  std::int64_t size() const { return static_cast<std::int64_t>(header_.document_count); }
  std::int64_t total_tokens() const { return static_cast<std::int64_t>(header_.token_count); }
  std::int64_t vocab_size() const { return static_cast<std::int64_t>(header_.vocab_size); }
  // -1 where there are no tokens.
  std::int64_t max_token_id() const { return static_cast<std::int64_t>(header_.max_token_id_end) - 1; }
  std::int64_t bytes() const { return static_cast<std::int64_t>(header_.file_bytes); }
  int id_bytes() const { return static_cast<int>(header_.id_bytes); }
  const std::string& path() const { return path_; }

  // Throws std::out_of_range for a document that does not exist, std::runtime_error for a damaged offset.
  TokenRange range(std::int64_t document) const {
    if (document < 0 || document >= size()) refuse_document(document);
    const std::uint64_t begin = offsets_[document];
    const std::uint64_t end = offsets_[document + 1];
    if (begin > end || end > header_.token_count || end - begin > kMaxDocumentTokens) refuse_offset(document);
    return {begin, static_cast<std::int32_t>(end - begin)};
  }

  // Writes the first `count` tokens of `range` (at most its length) to `out`, widened to Id.
  template <class Id>
  void copy(TokenRange range, std::int32_t count, Id* out) const {
    if (header_.id_bytes == 2) {
      std::copy_n(reinterpret_cast<const std::uint16_t*>(tokens_) + range.begin, count, out);
    } else {
      std::copy_n(reinterpret_cast<const std::uint32_t*>(tokens_) + range.begin, count, out);
    }
  }

  // Asks the processor for what range() reads; any number will do.
  void prefetch_range(std::int64_t document) const {
    if (document >= 0 && document < size()) __builtin_prefetch(offsets_ + document);
  }

  // Asks the processor for the first `count` tokens of `range`, which are copied soon.
  void prefetch(TokenRange range, std::int32_t count) const {
    constexpr std::size_t kLine = 64;  // bytes
    const std::byte* const begin = tokens_ + range.begin * header_.id_bytes;
    const std::byte* const end = begin + static_cast<std::size_t>(count) * header_.id_bytes;
    for (const std::byte* line = begin; line < end; line += kLine) __builtin_prefetch(line);
  }

  static constexpr std::uint64_t kMaxDocumentTokens = 0x7FFFFFFF;

 private:
  void check_header();
  void check_content() const;
  [[noreturn]] void refuse(const std::string& what) const;
  [[noreturn]] void refuse_document(std::int64_t document) const;
  [[noreturn]] void refuse_offset(std::int64_t document) const;

  std::string path_;
  MappedFile file_;
  TokenStoreHeader header_{};
  const std::byte* tokens_ = nullptr;
  const std::uint64_t* offsets_ = nullptr;
};

}  // namespace searchpipe
