#include "core/token_store_writer.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "core/message.h"

namespace searchpipe {
namespace {

constexpr std::size_t kChunkIds = 4096;
constexpr std::size_t kCopyBytes = 256 * 1024;

template <class Value>
std::span<const std::byte> bytes_of(const Value& value) {
  return std::as_bytes(std::span<const Value>(&value, 1));
}

}  // namespace

TokenStoreWriter::TokenStoreWriter(std::string path, std::int64_t vocab_size) : path_(std::move(path)) {
  if (vocab_size < 0 || static_cast<std::uint64_t>(vocab_size) > kMaxTokenIdEnd) {
    throw std::invalid_argument(message("vocab_size is ", vocab_size, "; it must be 1 to ", kMaxTokenIdEnd,
                                        ", or 0 where it is not known"));
  }
  std::memcpy(header_.magic, kTokenStoreMagic, sizeof(header_.magic));
  header_.byte_order = kByteOrderMark;
  header_.version = kTokenStoreVersion;
  header_.header_bytes = sizeof(header_);
  header_.vocab_size = static_cast<std::uint64_t>(vocab_size);
  header_.id_bytes = vocab_size > 0 && header_.vocab_size <= kMaxSmallVocab ? 2 : 4;
  header_.tokens_offset = sizeof(header_);

  files_ = std::make_unique<Files>(path_);
  files_->offsets.unlink();
  files_->tokens.append(bytes_of(header_));  // a place for it: close() writes the real one
  write_offset();
}

TokenStoreWriter::Files& TokenStoreWriter::writable() {
  if (files_) return *files_;
  throw std::invalid_argument(message("the writer of ", path_, published_ ? " is closed" : " was abandoned",
                                      "; open a new TokenStoreWriter"));
}

void TokenStoreWriter::check(std::span<const std::int32_t> ids) const {
  const std::int64_t end =
      header_.vocab_size == 0 ? std::int64_t{1} << 31 : static_cast<std::int64_t>(header_.vocab_size);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= end) {
      throw std::invalid_argument(message("token ", i, " of document ", header_.document_count, " is ",
                                          ids[i], "; ids must be 0 to ", end - 1,
                                          ": was another tokenizer used than vocab_size is of?"));
    }
  }
  if (header_.document_count >= kMaxDocuments) {
    throw std::length_error(message("a token store holds at most ", kMaxDocuments, " documents"));
  }
  if (ids.size() > std::size_t{0x7FFFFFFF}) {
    throw std::length_error(
        message("a document of ", ids.size(), " tokens; at most 2147483647 are possible"));
  }
}

void TokenStoreWriter::write_tokens(std::span<const std::byte> bytes) {
  tokens_checksum_.update(bytes);
  files_->tokens.append(bytes);
}

template <class Id>
void TokenStoreWriter::write_ids(std::span<const std::int32_t> ids) {
  std::array<Id, kChunkIds> narrow;
  while (!ids.empty()) {
    const auto chunk = ids.first(std::min(ids.size(), narrow.size()));
    std::transform(chunk.begin(), chunk.end(), narrow.begin(),
                   [](std::int32_t id) { return static_cast<Id>(id); });
    write_tokens(std::as_bytes(std::span(narrow).first(chunk.size())));
    ids = ids.subspan(chunk.size());
  }
}

void TokenStoreWriter::write_offset() {
  const auto bytes = bytes_of(header_.token_count);
  offsets_checksum_.update(bytes);
  files_->offsets.append(bytes);
}

std::int64_t TokenStoreWriter::append(std::span<const std::int32_t> ids) {
  const std::lock_guard lock(mutex_);
  writable();
  check(ids);
  try {
    header_.id_bytes == 2 ? write_ids<std::uint16_t>(ids) : write_ids<std::uint32_t>(ids);
    header_.token_count += ids.size();
    write_offset();
  } catch (...) {
    files_.reset();
    throw;
  }
  if (!ids.empty()) {
    const auto largest = static_cast<std::uint64_t>(*std::max_element(ids.begin(), ids.end()));
    header_.max_token_id_end = std::max(header_.max_token_id_end, largest + 1);
  }
  return static_cast<std::int64_t>(header_.document_count++);
}

void TokenStoreWriter::join() {
  const std::array<std::byte, 8> zeros{};
  write_tokens(std::span(zeros).first((8 - files_->tokens.size() % 8) % 8));
  header_.offsets_offset = files_->tokens.size();
  std::vector<std::byte> chunk(kCopyBytes);
  for (std::uint64_t done = 0; done < files_->offsets.size();) {
    const std::size_t bytes = files_->offsets.read(done, chunk);
    files_->tokens.append(std::span(chunk).first(bytes));
    done += bytes;
  }
  header_.file_bytes = files_->tokens.size();
  header_.tokens_checksum = tokens_checksum_.value();
  header_.offsets_checksum = offsets_checksum_.value();
  header_.header_checksum = checksum(bytes_of(header_).first(kHeaderChecked));
  files_->tokens.overwrite(0, bytes_of(header_));
  files_->tokens.publish();
}

void TokenStoreWriter::close() {
  const std::lock_guard lock(mutex_);
  if (published_) return;
  writable();
  try {
    join();
  } catch (...) {
    files_.reset();
    throw;
  }
  published_ = true;
  files_.reset();
}

void TokenStoreWriter::abandon() {
  const std::lock_guard lock(mutex_);
  files_.reset();
}

std::int64_t TokenStoreWriter::size() const {
  const std::lock_guard lock(mutex_);
  return static_cast<std::int64_t>(header_.document_count);
}

std::int64_t TokenStoreWriter::total_tokens() const {
  const std::lock_guard lock(mutex_);
  return static_cast<std::int64_t>(header_.token_count);
}

}  // namespace searchpipe
