#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace searchpipe {

// A postings index is one file:
//
//   PostingsHeader                   192 bytes
//   postings of all lists            list after list, run after run; a run is the places (uint16) of its
//                                    documents, ascending, and then their impacts (uint16)
//   PostingsRun of all lists         one for every block of documents in which a list has any
//   PostingsList of all terms        by term, then by field
//   PostingsTerm                     term_count + 1, by the bytes of the term; the last one ends the others
//   text of all terms
//
// in the byte order of the machine that wrote it; every section begins at a multiple of 8 bytes, zeros
// before.
//
// A list has the documents that hold one term in one field. Documents are dealt with in blocks of 65,536, so
// that a place in a block takes 16 bits and a block's scores fit into a processor's second-level cache. The
// impact is tf / (tf + k1 * (1 - b + b * length / average length)), the part of BM25 (Robertson and Zaragoza
// 2009) that depends on the document, from 1 to 65,535 for 0 to 1.
struct PostingsHeader {
  char magic[8];
  std::uint32_t byte_order;
  std::uint32_t version;
  std::uint32_t header_bytes;
  std::uint32_t field_count;
  std::uint64_t document_count;
  std::uint64_t posting_count;
  std::uint64_t run_count;
  std::uint64_t list_count;
  std::uint64_t term_count;
  std::uint64_t text_bytes;
  std::uint64_t postings_offset;  // in bytes from the start of the file, like the next four
  std::uint64_t runs_offset;
  std::uint64_t lists_offset;
  std::uint64_t terms_offset;
  std::uint64_t text_offset;
  std::uint64_t file_bytes;
  std::uint64_t content_checksum;  // XXH64 of all bytes after the header
  std::uint64_t reserved[7];       // zeros
  std::uint64_t header_checksum;   // XXH64 of all fields above
};

struct PostingsRun {
  std::uint32_t begin;  // in postings from the begin of its list; it ends where the next begins, or the list
  std::uint16_t block;
  std::uint16_t largest;  // impact
};

struct PostingsList {
  std::uint64_t begin;  // in postings from the begin of that section
  std::uint32_t postings;
  std::uint32_t first_run;
  std::uint32_t run_count;
  std::uint32_t field;
};

// Lists and text end where those of the next term begin.
struct PostingsTerm {
  std::uint32_t first_list;
  std::uint32_t text_begin;
};

static_assert(sizeof(PostingsHeader) == 192);
static_assert(sizeof(PostingsRun) == 8 && sizeof(PostingsList) == 24 && sizeof(PostingsTerm) == 8);
static_assert(std::is_trivially_copyable_v<PostingsHeader>);

inline constexpr char kPostingsMagic[8] = {'S', 'P', 'P', 'O', 'S', 'T', 'N', 'G'};
inline constexpr std::uint32_t kPostingsByteOrder = 0x01020304;
inline constexpr std::uint32_t kPostingsVersion = 1;
inline constexpr std::size_t kPostingsHeaderChecked = offsetof(PostingsHeader, header_checksum);
inline constexpr std::size_t kPostingBytes = 4;
inline constexpr std::uint32_t kBlockDocuments = 65536;
inline constexpr std::uint64_t kMaxPostingsDocuments = 0x7FFFFFFF;  // ordinals are handed out as int32
inline constexpr std::uint32_t kMaxPostingsFields = 1024;

inline constexpr double kBm25K1 = 1.2;
inline constexpr double kBm25B = 0.75;
inline constexpr double kImpactScale = 65535.0;

}  // namespace searchpipe
