#include <pybind11/stl.h>
#include <pybind11/stl/filesystem.h>

#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/gil.h"
#include "bindings/module.h"
#include "core/postings_index.h"
#include "core/postings_search.h"
#include "core/postings_writer.h"
#include "core/search_threads.h"
#include "runtime/clock.h"

namespace py = pybind11;

namespace searchpipe::bindings {
namespace {

// The bytes of a term, UTF-8 of a str, which `term` (or what is added to `kept`) must outlive. Lone
// surrogates are written as they are, as Python's "surrogatepass" does.
std::string_view bytes_of(py::handle term, std::vector<py::object>& kept) {
  if (PyUnicode_Check(term.ptr())) {
    Py_ssize_t size = 0;
    if (const char* const text = PyUnicode_AsUTF8AndSize(term.ptr(), &size)) {
      return {text, static_cast<std::size_t>(size)};
    }
    if (PyErr_ExceptionMatches(PyExc_UnicodeEncodeError) == 0) throw py::error_already_set();
    PyErr_Clear();
    PyObject* const encoded = PyUnicode_AsEncodedString(term.ptr(), "utf-8", "surrogatepass");
    if (encoded == nullptr) throw py::error_already_set();
    kept.push_back(py::reinterpret_steal<py::object>(encoded));
    term = kept.back();
  }
  if (!PyBytes_Check(term.ptr())) {
    throw py::type_error("a term is of type " +
                         std::string(py::str(py::type::handle_of(term).attr("__name__"))) +
                         "; pass str or bytes");
  }
  return {PyBytes_AS_STRING(term.ptr()), static_cast<std::size_t>(PyBytes_GET_SIZE(term.ptr()))};
}

using Fields = std::vector<std::vector<std::string_view>>;

// The terms of each field of a document; their objects, too, go to `kept`, which must outlive the views.
Fields terms_of(py::handle document, std::vector<py::object>& kept) {
  Fields fields;
  for (const py::handle field : document) {
    auto& terms = fields.emplace_back();
    const py::object sequence = py::reinterpret_steal<py::object>(
        PySequence_Fast(field.ptr(), "a field is no sequence of terms; pass a list of str or bytes"));
    if (!sequence) throw py::error_already_set();
    const Py_ssize_t count = PySequence_Fast_GET_SIZE(sequence.ptr());
    terms.reserve(static_cast<std::size_t>(count));
    for (Py_ssize_t i = 0; i < count; ++i) {
      const py::handle term = PySequence_Fast_GET_ITEM(sequence.ptr(), i);
      kept.push_back(py::reinterpret_borrow<py::object>(term));
      terms.push_back(bytes_of(term, kept));
    }
  }
  return fields;
}

void append(PostingsWriter& writer, const py::sequence& document) {
  std::vector<py::object> kept;
  const Fields fields = terms_of(document, kept);
  // Some microseconds, for which the GIL is kept: getting it back may take longer.
  if (writer.append(fields)) {
    ReleaseGil release;
    writer.spill_if_due();
  }
}

void append_many(PostingsWriter& writer, const py::sequence& documents) {
  std::vector<py::object> kept;
  std::vector<Fields> texts;
  texts.reserve(documents.size());
  for (const py::handle document : documents) texts.push_back(terms_of(document, kept));
  ReleaseGil release;
  for (const Fields& fields : texts) {
    if (writer.append(fields)) writer.spill_if_due();
  }
}

void leave(PostingsWriter& writer, const py::object& type, const py::object&, const py::object&) {
  const bool failed = !type.is_none();
  ReleaseGil release;
  failed ? writer.abandon() : writer.close();
}

// A search with everything that it reads.
class HeldSearch {
 public:
  HeldSearch(std::shared_ptr<const PostingsIndex> index, const py::sequence& terms,
             std::vector<double> boosts, std::int64_t k, const py::object& mask)
      : index_(std::move(index)) {
    std::vector<std::string_view> texts;
    for (const py::handle term : terms) {
      kept_.push_back(py::reinterpret_borrow<py::object>(term));
      texts.push_back(bytes_of(term, kept_));
    }
    std::span<const std::uint8_t> entries;
    if (!mask.is_none()) {
      mask_ = input_vector<bool>(mask, "mask");
      entries = {reinterpret_cast<const std::uint8_t*>(mask_->array.data()),
                 static_cast<std::size_t>(mask_->array.size())};
      if (entries.size() != static_cast<std::size_t>(index_->size())) {
        throw py::value_error("the mask has " + std::to_string(entries.size()) + " entries, the index " +
                              std::to_string(index_->size()) + " documents");
      }
    }
    search_ = std::make_shared<PostingsSearch>(*index_, std::move(texts), std::move(boosts), k, entries);
  }

  // Threads that it was shared with may still have it, but not what it reads.
  ~HeldSearch() {
    if (search_ != nullptr) search_->abandon();
  }

  PostingsSearch* operator->() { return search_.get(); }

  int share(SearchThreads& threads, int wanted) { return threads.share(search_, wanted); }

  py::tuple found() {
    ScoredDocs found = search_->found();
    return py::make_tuple(to_array(std::move(found.docs)), to_array(std::move(found.scores)));
  }

 private:
  std::shared_ptr<const PostingsIndex> index_;
  std::vector<py::object> kept_;
  std::optional<InputVector<bool>> mask_;
  std::shared_ptr<PostingsSearch> search_;
};

py::tuple search(const std::shared_ptr<PostingsIndex>& index, const py::sequence& terms,
                 std::vector<double> boosts, std::int64_t k, const py::object& mask) {
  HeldSearch search(index, terms, std::move(boosts), k, mask);
  {
    ReleaseGil release;
    search->run();
  }
  return search.found();
}

}  // namespace

void register_postings(py::module_& m) {
  py::class_<PostingsWriter>(m, "PostingsWriter", R"(Writes a PostingsIndex document by document.

Memory holds 4 bytes for every field of every document and about `memory_bytes` of postings; what is more is spilled
to a temporary file beside the index. The index appears under its name, whole and durable, when close() is called (or
a `with` block ends without an exception).
Threads: calls from several threads are safe; the order of documents is the order of the calls.)")
      .def(py::init([](const std::filesystem::path& path, std::size_t fields, std::size_t memory_bytes) {
             ReleaseGil release;
             return std::make_unique<PostingsWriter>(path.string(), fields, memory_bytes);
           }),
           py::arg("path"), py::kw_only(), py::arg("fields"),
           py::arg("memory_bytes") = std::size_t{256} << 20,
           R"(Start an index of `fields` fields (1 to 1,024) that shall be published at `path`.

Raises OSError (with errno) where the temporary file cannot be made, ValueError for an impossible number of fields.)")
      .def("append", &append, py::arg("document"),
           R"(Add a document: for each field a sequence of its terms (str or bytes), repetitions included.

Raises TypeError for something else, ValueError for another number of fields or a closed writer, OSError when the disk
is full (then the writer is abandoned).)")
      .def("append_many", &append_many, py::arg("documents"),
           R"(Add a sequence of documents, in its order; the GIL is released while they are indexed.

Raises as append() does. Where a document is refused for its number of fields, those before it were added.)")
      .def(
          "close", &PostingsWriter::close, py::call_guard<ReleaseGil>(),
          R"(Merge what was spilled, fsync, rename to the final name, fsync the folder. A second call does nothing.

Raises OSError (the temporary files are removed), ValueError if the writer was abandoned.)")
      .def("abandon", &PostingsWriter::abandon, py::call_guard<ReleaseGil>(),
           "Remove the temporary files and publish nothing. Does nothing after close().")
      .def("__enter__", [](py::object self) { return self; })
      .def("__exit__", &leave, py::arg("exc_type"), py::arg("exc"), py::arg("traceback"))
      .def("__len__", &PostingsWriter::size, "Documents appended so far.");

  py::class_<SearchThreads>(
      m, "SearchThreads",
      R"(Threads of the core that work on searches which others have begun (PostingsSearch.share()).

Nothing waits for one of them: a search that finds them all busy is left to whoever wants its result. They do not
survive a fork: in the child the object must be neither used nor freed.
Threads: any number may call anything.)")
      .def(py::init<int>(), py::arg("count"), R"(Start `count` threads (1 to 256).

Raises ValueError for another number, RuntimeError where a thread cannot be had.)")
      .def("close", &SearchThreads::close, py::call_guard<ReleaseGil>(),
           "End the threads once what they search has ended; nothing is shared from then on. Idempotent.");

  py::class_<HeldSearch, std::shared_ptr<HeldSearch>>(
      m, "PostingsSearch",
      R"(A search that several threads may work on at once; PostingsIndex.begin() makes it.

Threads: any number may call anything; each takes the next range of documents that nobody has begun, and keeps 320 KiB
for it.)")
      .def(
          "run",
          [](HeldSearch& search, double seconds) {
            ReleaseGil release;
            search->run(runtime::after_seconds(seconds));
          },
          py::arg("seconds") = std::numeric_limits<double>::infinity(),
          R"(Work on it until nothing is left that no thread has begun, about `seconds` at most. The GIL is released.

What goes wrong is told by found().)")
      .def(
          "wait",
          [](HeldSearch& search, double seconds) {
            if (search->ended()) return true;
            ReleaseGil release;
            return search->wait(runtime::after_seconds(seconds));
          },
          py::arg("seconds") = std::numeric_limits<double>::infinity(),
          R"(Whether nothing is left and no thread works on it any more, after `seconds` at most. The GIL is released.

Who waits does not search: without a thread in run() it does not end.)")
      .def("share", &HeldSearch::share, py::arg("threads"), py::arg("wanted"),
           R"(Let idle ones of `threads` work on it, at most `wanted`; returns how many. They need no GIL.

They stop when the search is freed.)")
      .def("found", &HeldSearch::found,
           R"(As PostingsIndex.search() returns it; RuntimeError before it has ended.

Raises RuntimeError for a damaged index.)")
      .def_property_readonly(
          "ended", [](HeldSearch& search) { return search->ended(); }, "Whether found() can tell.")
      .def_property_readonly(
          "seconds", [](HeldSearch& search) { return search->seconds(); },
          "From when it was first worked on until it ended; 0 before.");

  py::class_<PostingsIndex, std::shared_ptr<PostingsIndex>>(
      m, "PostingsIndex",
      R"(Which documents 0..len - 1 hold a term, and how much it says about them; memory-mapped.

Threads: immutable; any number of threads may search at once, each keeps 320 KiB for it. Do not truncate the file in
place while it is open (replace it by rename, as PostingsWriter does).)")
      .def(py::init([](const std::filesystem::path& path, bool verify) {
             ReleaseGil release;
             return std::make_shared<PostingsIndex>(path.string(), verify);
           }),
           py::arg("path"), py::kw_only(), py::arg("verify") = true, R"(Open the index at `path`, read-only.

verify: read the file once and compare its checksum. Without it only the header is checked, and a damaged file may give
wrong documents or RuntimeError when it is searched (never a crash).
Raises OSError (FileNotFoundError ...), RuntimeError saying what is wrong with the file.)")
      .def("__len__", &PostingsIndex::size, "Number of documents.")
      .def("search", &search, py::arg("terms"), py::kw_only(), py::arg("boosts"), py::arg("k"),
           py::arg("mask") = py::none(),
           R"(The k best documents by BM25 (k1 = 1.2, b = 0.75), summed over terms and fields.

terms: str or bytes, each once. boosts: one float below 1e6 a field; a field whose boost is not above 0 does not count.
mask: bool (len,) of the documents that may be found, None for all.
Returns docs int32 (m,) and scores float32 (m,), best first, equal scores by ordinal; m <= k. Exact for the impacts in
the index, which are rounded to 1/65535; a document's score does not depend on k or the mask. The GIL is released.
Raises ValueError for a mask or boosts of another length, TypeError for another dtype, RuntimeError for a damaged
index.)")
      .def(
          "begin",
          [](const std::shared_ptr<PostingsIndex>& index, const py::sequence& terms,
             std::vector<double> boosts, std::int64_t k, const py::object& mask) {
            return std::make_shared<HeldSearch>(index, terms, std::move(boosts), k, mask);
          },
          py::arg("terms"), py::kw_only(), py::arg("boosts"), py::arg("k"), py::arg("mask") = py::none(),
          R"(As search(), for any number of threads: nothing is searched before one of them calls run().

Raises ValueError for a mask or boosts of another length, TypeError for another dtype.)")
      .def_property_readonly("fields", &PostingsIndex::fields, "Number of fields.")
      .def_property_readonly("terms", &PostingsIndex::terms, "Number of distinct terms.")
      .def_property_readonly("postings", &PostingsIndex::postings, "Number of (term, field, document).")
      .def_property_readonly("nbytes", &PostingsIndex::bytes, "Size of the file in bytes.")
      .def_property_readonly(
          "path", [](const PostingsIndex& index) { return std::filesystem::path(index.path()); },
          "The file.");
}

}  // namespace searchpipe::bindings
