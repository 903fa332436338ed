#include "core/postings_index.h"

#include <cstring>
#include <stdexcept>
#include <utility>

#include "core/checksum.h"
#include "core/message.h"

namespace searchpipe {

PostingsIndex::PostingsIndex(std::string path, bool verify) : path_(std::move(path)), file_(path_) {
  check_header();
  if (verify && checksum(file_.bytes().subspan(sizeof(header_))) != header_.content_checksum) {
    refuse("the checksum of its content is wrong: it was altered; build it again");
  }
}

void PostingsIndex::refuse(const std::string& what) const {
  throw std::runtime_error(message("postings index ", path_, ": ", what));
}

void PostingsIndex::refuse_table(const std::string& what, std::uint64_t number) const {
  refuse(message(what, " ", number, " lies outside of its section: the file was altered; build it again"));
}

template <class Entry>
const Entry* PostingsIndex::section(std::uint64_t offset, std::uint64_t count, const char* what) const {
  const std::uint64_t size = file_.bytes().size();
  if (offset < sizeof(header_) || offset % 8 != 0 || offset > size ||
      count > (size - offset) / sizeof(Entry)) {
    refuse(message(count, " ", what, " at byte ", offset, " do not fit into ", size, " bytes"));
  }
  return reinterpret_cast<const Entry*>(file_.bytes().data() + offset);
}

void PostingsIndex::check_header() {
  const std::uint64_t size = file_.bytes().size();
  if (size < sizeof(header_)) {
    refuse(message("it has ", size, " bytes, its header alone takes ", sizeof(header_),
                   ": it is truncated or no postings index; build it again"));
  }
  std::memcpy(&header_, file_.bytes().data(), sizeof(header_));
  const PostingsHeader& h = header_;
  if (std::memcmp(h.magic, kPostingsMagic, sizeof(h.magic)) != 0) {
    refuse("it does not begin with SPPOSTNG: it is no postings index");
  }
  if (h.byte_order != kPostingsByteOrder) {
    refuse("it was written on a machine of the other byte order, or altered; build it again on this one");
  }
  if (h.version != kPostingsVersion) {
    refuse(message("its format is version ", h.version, ", this release reads ", kPostingsVersion,
                   "; build it again"));
  }
  if (checksum(file_.bytes().first(kPostingsHeaderChecked)) != h.header_checksum) {
    refuse("the checksum of its header is wrong: it was altered; build it again");
  }
  if (h.file_bytes != size) {
    refuse(message("it has ", size, " bytes and should have ", h.file_bytes,
                   size < h.file_bytes ? ": it is truncated" : ": something was appended",
                   "; build it again"));
  }
  if (h.header_bytes != sizeof(header_) || h.field_count < 1 || h.field_count > kMaxPostingsFields ||
      h.document_count > kMaxPostingsDocuments) {
    refuse(message("its header says ", h.header_bytes, " bytes, ", h.field_count, " fields and ",
                   h.document_count, " documents; build it again"));
  }
  using Posting = std::uint16_t[2];
  postings_ = reinterpret_cast<const std::uint16_t*>(
      section<Posting>(h.postings_offset, h.posting_count, "postings"));
  runs_ = section<PostingsRun>(h.runs_offset, h.run_count, "runs");
  lists_ = section<PostingsList>(h.lists_offset, h.list_count, "lists");
  if (h.term_count > size) refuse(message(h.term_count, " terms do not fit into ", size, " bytes"));
  terms_ = section<PostingsTerm>(h.terms_offset, h.term_count + 1, "terms");
  text_ = section<char>(h.text_offset, h.text_bytes, "bytes of terms");
}

std::string_view PostingsIndex::text_of(std::uint64_t term) const {
  const std::uint32_t begin = terms_[term].text_begin;
  const std::uint32_t end = terms_[term + 1].text_begin;
  if (begin > end || end > header_.text_bytes) refuse_table("the text of term", term);
  return {text_ + begin, end - begin};
}

void PostingsIndex::find(std::string_view term, std::vector<ListView>& found) const {
  std::uint64_t low = 0;
  std::uint64_t high = header_.term_count;
  while (low < high) {
    const std::uint64_t middle = low + (high - low) / 2;
    if (text_of(middle) < term) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  if (low == header_.term_count || text_of(low) != term) return;
  const std::uint32_t first = terms_[low].first_list;
  const std::uint32_t last = terms_[low + 1].first_list;
  if (first > last || last > header_.list_count || last - first > header_.field_count) {
    refuse_table("the lists of term", low);
  }
  for (std::uint32_t number = first; number < last; ++number) {
    const PostingsList& list = lists_[number];
    if (list.begin > header_.posting_count || list.postings > header_.posting_count - list.begin ||
        list.postings > header_.document_count || list.first_run > header_.run_count ||
        list.run_count > header_.run_count - list.first_run || list.field >= header_.field_count) {
      refuse_table("list", number);
    }
    found.emplace_back(list.field, list.postings, postings_ + 2 * list.begin,
                       std::span(runs_ + list.first_run, list.run_count));
  }
}

}  // namespace searchpipe
