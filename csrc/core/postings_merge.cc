#include "core/postings_merge.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string_view>
#include <tuple>

#include "core/checksum.h"
#include "core/message.h"
#include "core/postings_format.h"

namespace searchpipe {
namespace {

constexpr std::size_t kLeastBuffer = 16 * 1024;
constexpr std::size_t kMostBuffer = 1024 * 1024;

template <class Value>
std::span<const std::byte> bytes_of(const Value& value) {
  return std::as_bytes(std::span<const Value>(&value, 1));
}

// Reads one part's records in their order.
class PartReader {
 public:
  PartReader(TemporaryFile& file, const SpilledPart& part, std::size_t buffer_bytes)
      : file_(file), part_(part), next_(part.begin), buffer_(buffer_bytes) {}

  // False at the end of the part.
  bool next() {
    if (next_ == part_.end && used_ == filled_) return false;
    read(std::as_writable_bytes(std::span(&record_, 1)));
    term_.resize(record_.term_bytes);
    read(std::as_writable_bytes(std::span(term_)));
    return true;
  }

  // The postings of the record at hand; call once.
  void postings(std::vector<std::uint16_t>& places, std::vector<std::uint32_t>& frequencies) {
    places.resize(record_.postings);
    frequencies.resize(record_.postings);
    read(std::as_writable_bytes(std::span(places)));
    read(std::as_writable_bytes(std::span(frequencies)));
  }

  std::string_view term() const { return term_; }
  std::uint32_t field() const { return record_.field; }
  std::uint32_t block() const { return part_.block; }

 private:
  void read(std::span<std::byte> out) {
    while (!out.empty()) {
      if (used_ == filled_) {
        const std::uint64_t left = std::min<std::uint64_t>(buffer_.size(), part_.end - next_);
        filled_ = file_.read(next_, std::span(buffer_).first(left));
        used_ = 0;
        next_ += filled_;
        if (filled_ == 0) throw std::runtime_error("the temporary file of the postings was cut short");
      }
      const std::size_t taken = std::min(out.size(), filled_ - used_);
      std::memcpy(out.data(), buffer_.data() + used_, taken);
      used_ += taken;
      out = out.subspan(taken);
    }
  }

  TemporaryFile& file_;
  SpilledPart part_;
  std::uint64_t next_;
  std::vector<std::byte> buffer_;
  std::size_t used_ = 0;
  std::size_t filled_ = 0;
  PartRecord record_{};
  std::string term_;
};

// Writes the sections of the final file side by side and joins them.
class IndexFile {
 public:
  explicit IndexFile(const std::string& path)
      : file_(path), runs_(path), lists_(path), terms_(path), text_(path) {
    for (TemporaryFile* section : {&runs_, &lists_, &terms_, &text_}) section->unlink();
    file_.append(bytes_of(header_));  // a place for it: publish() writes the real one
  }

  void begin_list(std::string_view term, std::uint32_t field) {
    if (header_.term_count == 0 || term != term_) {
      end_terms();
      ++header_.term_count;
      term_ = term;
      text_.append(std::as_bytes(std::span(term)));
      header_.text_bytes += term.size();
    }
    list_ = {header_.posting_count, 0, narrow(header_.run_count, "runs"), 0, field};
  }

  void add_run(std::uint32_t block, std::span<const std::uint16_t> places,
               std::span<const std::uint16_t> impacts) {
    const PostingsRun run{list_.postings, static_cast<std::uint16_t>(block),
                          *std::max_element(impacts.begin(), impacts.end())};
    runs_.append(bytes_of(run));
    write(std::as_bytes(places));
    write(std::as_bytes(impacts));
    list_.postings += static_cast<std::uint32_t>(places.size());
    ++list_.run_count;
    ++header_.run_count;
  }

  void end_list() {
    lists_.append(bytes_of(list_));
    header_.posting_count += list_.postings;
    ++header_.list_count;
  }

  void publish(std::size_t fields, std::size_t documents) {
    end_terms();
    std::memcpy(header_.magic, kPostingsMagic, sizeof(header_.magic));
    header_.byte_order = kPostingsByteOrder;
    header_.version = kPostingsVersion;
    header_.header_bytes = sizeof(header_);
    header_.field_count = static_cast<std::uint32_t>(fields);
    header_.document_count = documents;
    header_.postings_offset = sizeof(header_);
    header_.runs_offset = join(runs_);
    header_.lists_offset = join(lists_);
    header_.terms_offset = join(terms_);
    header_.text_offset = join(text_);
    header_.file_bytes = file_.size();
    header_.content_checksum = checksum_.value();
    header_.header_checksum = checksum(bytes_of(header_).first(kPostingsHeaderChecked));
    file_.overwrite(0, bytes_of(header_));
    file_.publish();
  }

 private:
  static std::uint32_t narrow(std::uint64_t value, const char* what) {
    if (value <= std::numeric_limits<std::uint32_t>::max()) return static_cast<std::uint32_t>(value);
    throw std::length_error(
        message("the index has more than 4294967295 ", what, "; divide the catalog, or index fewer fields"));
  }

  // Where the next term begins, and the last one ends.
  void end_terms() {
    const PostingsTerm term{narrow(header_.list_count, "lists"),
                            narrow(header_.text_bytes, "bytes of terms")};
    terms_.append(bytes_of(term));
  }

  void write(std::span<const std::byte> bytes) {
    checksum_.update(bytes);
    file_.append(bytes);
  }

  std::uint64_t join(TemporaryFile& section) {
    constexpr std::array<std::byte, 8> kZeros{};
    write(std::span(kZeros).first((8 - file_.size() % 8) % 8));
    const std::uint64_t begin = file_.size();
    std::vector<std::byte> chunk(kMostBuffer);
    for (std::uint64_t done = 0; done < section.size();) {
      const std::size_t bytes = section.read(done, chunk);
      write(std::span(chunk).first(bytes));
      done += bytes;
    }
    return begin;
  }

  PostingsHeader header_{};
  TemporaryFile file_;
  TemporaryFile runs_;
  TemporaryFile lists_;
  TemporaryFile terms_;
  TemporaryFile text_;
  Checksum checksum_;
  std::string term_;
  PostingsList list_{};
};

// From frequencies and lengths to impacts.
class Impacts {
 public:
  explicit Impacts(const DocumentLengths& documents) : documents_(documents) {
    for (const std::uint64_t total : documents.totals) {
      const double average =
          static_cast<double>(total) / static_cast<double>(std::max<std::size_t>(documents.documents(), 1));
      per_term_.push_back(average > 0.0 ? kBm25K1 * kBm25B / average : 0.0);
    }
  }

  std::uint16_t of(std::uint64_t document, std::uint32_t field, std::uint32_t frequency) const {
    const std::uint32_t length = documents_.lengths[document * documents_.fields + field];
    const double norm = kBm25K1 * (1.0 - kBm25B) + per_term_[field] * length;
    const double impact = kImpactScale * frequency / (frequency + norm);
    return static_cast<std::uint16_t>(std::max(1L, std::lround(impact)));  // 0 would be no match
  }

 private:
  const DocumentLengths& documents_;
  std::vector<double> per_term_;
};

// One list, from the parts that have it, in the order of their documents.
class ListMerger {
 public:
  ListMerger(IndexFile& index, const Impacts& impacts) : index_(index), impacts_of_(impacts) {}

  void begin(std::string_view term, std::uint32_t field) {
    index_.begin_list(term, field);
    field_ = field;
  }

  void add(PartReader& part) {
    if (part.block() != block_) flush();
    block_ = part.block();
    part.postings(part_places_, frequencies_);
    for (std::size_t i = 0; i < part_places_.size(); ++i) {
      const std::uint64_t document = std::uint64_t{block_} * kBlockDocuments + part_places_[i];
      places_.push_back(part_places_[i]);
      impacts_.push_back(impacts_of_.of(document, field_, frequencies_[i]));
    }
  }

  void end() {
    flush();
    index_.end_list();
  }

 private:
  void flush() {
    if (!places_.empty()) index_.add_run(block_, places_, impacts_);
    places_.clear();
    impacts_.clear();
  }

  IndexFile& index_;
  const Impacts& impacts_of_;
  std::uint32_t field_ = 0;
  std::uint32_t block_ = 0;
  std::vector<std::uint16_t> part_places_;
  std::vector<std::uint32_t> frequencies_;
  std::vector<std::uint16_t> places_;
  std::vector<std::uint16_t> impacts_;
};

}  // namespace

void merge_postings(const std::string& path, TemporaryFile& spilled, std::span<const SpilledPart> parts,
                    const DocumentLengths& documents, std::size_t memory_bytes) {
  const std::size_t share = memory_bytes / 2 / std::max<std::size_t>(parts.size(), 1);
  std::vector<std::unique_ptr<PartReader>> readers;
  std::vector<std::size_t> heap;  // the part whose record comes next is in front
  for (const SpilledPart& part : parts) {
    readers.push_back(
        std::make_unique<PartReader>(spilled, part, std::clamp(share, kLeastBuffer, kMostBuffer)));
    if (readers.back()->next()) heap.push_back(readers.size() - 1);
  }
  const auto key = [&](std::size_t part) {
    return std::tuple(readers[part]->term(), readers[part]->field(), part);
  };
  const auto later = [&](std::size_t a, std::size_t b) { return key(a) > key(b); };
  std::make_heap(heap.begin(), heap.end(), later);

  IndexFile index(path);
  const Impacts impacts(documents);
  ListMerger list(index, impacts);
  std::string term;
  while (!heap.empty()) {
    term = readers[heap.front()]->term();
    const std::uint32_t field = readers[heap.front()]->field();
    list.begin(term, field);
    while (!heap.empty()) {
      const std::size_t first = heap.front();
      PartReader& reader = *readers[first];
      if (reader.term() != term || reader.field() != field) break;
      list.add(reader);
      std::pop_heap(heap.begin(), heap.end(), later);
      heap.pop_back();
      if (reader.next()) {
        heap.push_back(first);
        std::push_heap(heap.begin(), heap.end(), later);
      }
    }
    list.end();
  }
  index.publish(documents.fields, documents.documents());
}

}  // namespace searchpipe
