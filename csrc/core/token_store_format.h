#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace searchpipe {

// A token store is one file:
//
//   TokenStoreHeader                        128 bytes
//   token ids of all documents              token_count x id_bytes, then zeros up to a multiple of 8 bytes
//   offsets (in tokens, where each begins)  (document_count + 1) x uint64
//
// in the byte order of the machine that wrote it.
struct TokenStoreHeader {
  char magic[8];
  std::uint32_t byte_order;
  std::uint32_t version;
  std::uint32_t header_bytes;
  std::uint32_t id_bytes;  // 2 or 4
  std::uint64_t document_count;
  std::uint64_t token_count;
  std::uint64_t vocab_size;        // 0: unknown
  std::uint64_t max_token_id_end;  // the largest id + 1; 0: no tokens
  std::uint64_t tokens_offset;     // in bytes from the start of the file, like the next
  std::uint64_t offsets_offset;
  std::uint64_t file_bytes;
  std::uint64_t tokens_checksum;   // XXH64 of the ids and the zeros after them
  std::uint64_t offsets_checksum;  // XXH64 of the offsets
  std::uint64_t reserved[3];       // zeros
  std::uint64_t header_checksum;   // XXH64 of all fields above
};

static_assert(sizeof(TokenStoreHeader) == 128);
static_assert(std::is_trivially_copyable_v<TokenStoreHeader>);

inline constexpr char kTokenStoreMagic[8] = {'S', 'P', 'T', 'O', 'K', 'E', 'N', 'S'};
inline constexpr std::uint32_t kByteOrderMark = 0x01020304;
inline constexpr std::uint32_t kTokenStoreVersion = 1;
inline constexpr std::uint64_t kMaxSmallVocab = 65536;  // ids below this fit into uint16
inline constexpr std::uint64_t kMaxDocuments = 0x7FFFFFFF;
inline constexpr std::uint64_t kMaxTokenIdEnd = 0x80000000;  // ids are handed out as int32
inline constexpr std::size_t kHeaderChecked = offsetof(TokenStoreHeader, header_checksum);

}  // namespace searchpipe
