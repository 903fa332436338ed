#include "core/token_store.h"

#include <cstring>
#include <stdexcept>
#include <utility>

#include "core/checksum.h"
#include "core/message.h"

namespace searchpipe {
namespace {

template <class Id>
std::uint64_t largest_id_end(const std::byte* tokens, std::uint64_t count) {
  const Id* const ids = reinterpret_cast<const Id*>(tokens);
  Id largest = 0;
  for (std::uint64_t i = 0; i < count; ++i) largest = std::max(largest, ids[i]);
  return count == 0 ? 0 : std::uint64_t{largest} + 1;
}

}  // namespace

TokenStore::TokenStore(std::string path, bool verify) : path_(std::move(path)), file_(path_) {
  check_header();
  tokens_ = file_.bytes().data() + header_.tokens_offset;
  offsets_ = reinterpret_cast<const std::uint64_t*>(file_.bytes().data() + header_.offsets_offset);
  if (verify) check_content();
}

void TokenStore::refuse(const std::string& what) const {
  throw std::runtime_error(message("token store ", path_, ": ", what));
}

void TokenStore::refuse_document(std::int64_t document) const {
  throw std::out_of_range(
      message("document ", document, " is outside of the token store's ", size(), " documents"));
}

void TokenStore::refuse_offset(std::int64_t document) const {
  refuse(message("the offsets of document ", document, " (", offsets_[document], " to ",
                 offsets_[document + 1], ") do not fit into its ", header_.token_count,
                 " tokens: the file was altered; build it again"));
}

void TokenStore::check_header() {
  const std::uint64_t size = file_.bytes().size();
  if (size < sizeof(header_)) {
    refuse(message("it has ", size, " bytes, its header alone takes ", sizeof(header_),
                   ": it is truncated or no token store"));
  }
  std::memcpy(&header_, file_.bytes().data(), sizeof(header_));
  const TokenStoreHeader& h = header_;
  if (std::memcmp(h.magic, kTokenStoreMagic, sizeof(h.magic)) != 0) {
    refuse("it does not begin with SPTOKENS: it is no token store");
  }
  if (h.byte_order != kByteOrderMark) {
    refuse("it was written on a machine of the other byte order, or altered; build it again on this one");
  }
  if (h.version != kTokenStoreVersion) {
    refuse(message("its format is version ", h.version, ", this release reads ", kTokenStoreVersion,
                   "; upgrade searchpipe or build the store again"));
  }
  const std::uint64_t sum = checksum(file_.bytes().first(kHeaderChecked));
  if (sum != h.header_checksum) refuse("the checksum of its header is wrong: it was altered; build it again");
  if (h.header_bytes != sizeof(header_) || h.tokens_offset != sizeof(header_)) {
    refuse(message("its header says ", h.header_bytes, " bytes and tokens at ", h.tokens_offset, ", version ",
                   h.version, " has ", sizeof(header_)));
  }
  if (h.id_bytes != 2 && h.id_bytes != 4)
    refuse(message("ids of ", h.id_bytes, " bytes; 2 or 4 are possible"));
  if (h.file_bytes != size) {
    refuse(message("it has ", size, " bytes and should have ", h.file_bytes,
                   size < h.file_bytes ? ": it is truncated" : ": something was appended",
                   "; build it again"));
  }
  // Counts are bounded by the real size first, so that nothing below can overflow.
  if (h.token_count > size / h.id_bytes || h.document_count > size / sizeof(std::uint64_t) ||
      h.document_count > kMaxDocuments) {
    refuse(message(h.document_count, " documents with ", h.token_count, " tokens do not fit into ", size,
                   " bytes"));
  }
  const std::uint64_t tokens_end = sizeof(header_) + h.token_count * h.id_bytes;
  const std::uint64_t offsets_offset = (tokens_end + 7) / 8 * 8;
  if (h.offsets_offset != offsets_offset ||
      offsets_offset + (h.document_count + 1) * sizeof(std::uint64_t) != size) {
    refuse(message("its sections do not add up: ", h.document_count, " documents, ", h.token_count,
                   " tokens, offsets at ", h.offsets_offset, ", ", size, " bytes"));
  }
  if (h.max_token_id_end > kMaxTokenIdEnd || (h.id_bytes == 2 && h.max_token_id_end > kMaxSmallVocab) ||
      (h.vocab_size != 0 && h.max_token_id_end > h.vocab_size) || h.vocab_size > kMaxTokenIdEnd ||
      (h.max_token_id_end == 0) != (h.token_count == 0)) {
    refuse(message("its largest id + 1 is ", h.max_token_id_end, ", impossible for ", h.token_count,
                   " ids of ", h.id_bytes, " bytes and a vocabulary of ", h.vocab_size));
  }
}

void TokenStore::check_content() const {
  const auto bytes = file_.bytes();
  const auto tokens = bytes.subspan(header_.tokens_offset, header_.offsets_offset - header_.tokens_offset);
  const auto offsets = bytes.subspan(header_.offsets_offset);
  if (checksum(tokens) != header_.tokens_checksum) {
    refuse("the checksum of its token ids is wrong: it was altered; build it again");
  }
  if (checksum(offsets) != header_.offsets_checksum) {
    refuse("the checksum of its offsets is wrong: it was altered; build it again");
  }
  if (offsets_[0] != 0 || offsets_[size()] != header_.token_count) {
    refuse(message("its offsets run from ", offsets_[0], " to ", offsets_[size()], ", not from 0 to ",
                   header_.token_count));
  }
  for (std::int64_t document = 0; document < size(); ++document) range(document);
  const std::uint64_t largest = header_.id_bytes == 2
                                    ? largest_id_end<std::uint16_t>(tokens_, header_.token_count)
                                    : largest_id_end<std::uint32_t>(tokens_, header_.token_count);
  if (largest != header_.max_token_id_end) {
    refuse(message("its largest id is ", largest - 1, ", its header says ", header_.max_token_id_end - 1));
  }
}

}  // namespace searchpipe
