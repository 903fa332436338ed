#include "core/token_store.h"

#include <pybind11/stl/filesystem.h>

#include <filesystem>
#include <optional>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/gil.h"
#include "bindings/module.h"
#include "core/token_store_writer.h"

namespace py = pybind11;

namespace searchpipe::bindings {
namespace {

// OSError picks its own subclass by errno (FileNotFoundError, PermissionError ...).
void raise_os_error(std::exception_ptr pending) {
  try {
    if (pending) std::rethrow_exception(pending);
  } catch (const IoError& error) {
    const int number = error.code().value();
    const py::object os_error = py::reinterpret_borrow<py::object>(PyExc_OSError);
    const py::object value = os_error(number, error.code().message(), error.path());
    PyErr_SetObject(py::type::handle_of(value).ptr(), value.ptr());
  }
}

py::array_t<std::int32_t> tokens(const TokenStore& store, std::int64_t document) {
  const TokenRange range = store.range(document);
  py::array_t<std::int32_t> ids(range.length);
  std::int32_t* const out = ids.mutable_data();
  ReleaseGil release;
  store.copy(range, range.length, out);
  return ids;
}

py::array_t<std::int32_t> lengths(const TokenStore& store, const py::object& docs) {
  std::optional<InputVector<std::int32_t>> wanted;
  if (!docs.is_none()) wanted = input_vector<std::int32_t>(docs, "docs");
  const auto selected = wanted ? wanted->span() : std::span<const std::int32_t>();
  const std::int64_t count = wanted ? wanted->array.size() : store.size();
  py::array_t<std::int32_t> result(count);
  std::int32_t* const out = result.mutable_data();
  ReleaseGil release;
  for (std::int64_t i = 0; i < count; ++i) {
    out[i] = store.range(wanted ? selected[static_cast<std::size_t>(i)] : i).length;
  }
  return result;
}

std::int64_t append(TokenStoreWriter& writer, const py::object& object) {
  const auto ids = input_vector<std::int32_t>(object, "ids");
  ReleaseGil release;
  return writer.append(ids.span());
}

// One release of the GIL for all: beside a busy Python thread each costs a switch interval (5 ms).
void append_many(TokenStoreWriter& writer, const py::sequence& documents) {
  std::vector<InputVector<std::int32_t>> kept;
  kept.reserve(documents.size());
  for (const py::handle document : documents) {
    kept.push_back(input_vector<std::int32_t>(document, "a document's ids"));
  }
  ReleaseGil release;
  for (const auto& ids : kept) writer.append(ids.span());
}

void leave(TokenStoreWriter& writer, const py::object& type, const py::object&, const py::object&) {
  const bool failed = !type.is_none();
  ReleaseGil release;
  failed ? writer.abandon() : writer.close();
}

}  // namespace

void register_token_store(py::module_& m) {
  py::register_local_exception_translator(&raise_os_error);

  py::class_<TokenStoreWriter>(m, "TokenStoreWriter", R"(Writes a TokenStore document by document.

Memory use is bounded. The file appears under its name, whole and durable, when close() is called (or a `with` block
ends without an exception); until then it has a temporary name beside it, which is removed with the writer.
Threads: calls from several threads are safe; the order of documents is the order of the calls.)")
      .def(py::init([](const std::filesystem::path& path, std::int64_t vocab_size) {
             ReleaseGil release;
             return std::make_unique<TokenStoreWriter>(path.string(), vocab_size);
           }),
           py::arg("path"), py::kw_only(), py::arg("vocab_size") = 0,
           R"(Start a store that shall be published at `path`.

vocab_size: ids must be below it; up to 65,536 they take 2 bytes in the file, else (or with 0, not known) 4.
Raises OSError (with errno) where the temporary file cannot be made, ValueError for an impossible vocab_size.)")
      .def("append", &append, py::arg("ids"), R"(Add a document: int32 (n,), n may be 0. Returns its ordinal.

Raises TypeError for another dtype, ValueError for an id outside of the vocabulary or a closed writer, OSError when
the disk is full (then the writer is abandoned).)")
      .def("append_many", &append_many, py::arg("documents"),
           R"(Add a sequence of documents, each int32 (n,), in its order; the GIL is released once.

Raises as append() does. Where an id is refused, the documents before its own were added.)")
      .def("close", &TokenStoreWriter::close, py::call_guard<ReleaseGil>(),
           R"(Write the header, fsync, rename to the final name, fsync the folder. A second call does nothing.

Raises OSError (the temporary files are removed), ValueError if the writer was abandoned.)")
      .def("abandon", &TokenStoreWriter::abandon, py::call_guard<ReleaseGil>(),
           "Remove the temporary files and publish nothing. Does nothing after close().")
      .def("__enter__", [](py::object self) { return self; })
      .def("__exit__", &leave, py::arg("exc_type"), py::arg("exc"), py::arg("traceback"))
      .def("__len__", &TokenStoreWriter::size, "Documents appended so far.")
      .def_property_readonly("total_tokens", &TokenStoreWriter::total_tokens, "Tokens appended so far.");

  py::class_<TokenStore, std::shared_ptr<TokenStore>>(m, "TokenStore",
                                                      R"(Token ids of documents 0..len - 1, memory-mapped.

Threads: immutable; any number of threads may call everything at once. Do not truncate the file in place while it is
open (replace it by rename, as TokenStoreWriter does).)")
      .def(py::init([](const std::filesystem::path& path, bool verify) {
             ReleaseGil release;
             return std::make_shared<TokenStore>(path.string(), verify);
           }),
           py::arg("path"), py::kw_only(), py::arg("verify") = true, R"(Open the store at `path`, read-only.

verify: read the file once and check its checksums and all offsets and ids. Without it only the header is checked
when opening, and a damaged file may give wrong tokens (never a crash).
Raises OSError (FileNotFoundError ...), RuntimeError saying what is wrong with the file.)")
      .def("__len__", &TokenStore::size, "Number of documents.")
      .def("tokens", &tokens, py::arg("doc"),
           "A copy of one document's ids: int32 (n,). Raises IndexError for a document that does not exist.")
      .def("lengths", &lengths, py::arg("docs") = py::none(),
           R"(Number of tokens of each of `docs`: int32 (n,).

docs: int32 (n,) ordinals, None for all documents. Raises IndexError naming the first that does not exist.)")
      .def_property_readonly("total_tokens", &TokenStore::total_tokens, "Tokens of all documents.")
      .def_property_readonly("max_token_id", &TokenStore::max_token_id,
                             "The largest id; -1 where there are none.")
      .def_property_readonly("vocab_size", &TokenStore::vocab_size, "As given to the writer; 0 is not known.")
      .def_property_readonly("id_bytes", &TokenStore::id_bytes, "Bytes of one id in the file: 2 or 4.")
      .def_property_readonly("nbytes", &TokenStore::bytes, "Size of the file in bytes.")
      .def_property_readonly(
          "path", [](const TokenStore& store) { return std::filesystem::path(store.path()); }, "The file.");
}

}  // namespace searchpipe::bindings
