#include "core/pair_packer.h"

#include <memory>

#include "bindings/arrays.h"
#include "bindings/gil.h"
#include "bindings/module.h"

namespace py = pybind11;

namespace searchpipe::bindings {
namespace {

using Ids = InputVector<std::int32_t>;

// The layout as Python sees it: its arrays are made once.
struct Layout {
  explicit Layout(PackedLayout&& layout)
      : width(layout.width),
        total_tokens(layout.total_tokens),
        lengths(to_array(std::move(layout.lengths))),
        permutation(to_array(std::move(layout.permutation))) {}

  std::int64_t width;
  std::int64_t total_tokens;
  py::array_t<std::int32_t> lengths;
  py::array_t<std::int32_t> permutation;
};

OutputMatrix output_matrix(const py::object& object, const std::string& name) {
  const std::string cure = "; pass np.empty((rows, width), np.int64) or np.int32";
  if (!py::isinstance<py::array>(object)) {
    throw py::type_error(name + " is of type " +
                         std::string(py::str(py::type::handle_of(object).attr("__name__"))) + cure);
  }
  OutputMatrix out{};
  if (py::isinstance<py::array_t<std::int32_t>>(object)) {
    out.type = ElementType::kInt32;
  } else if (py::isinstance<py::array_t<std::int64_t>>(object)) {
    out.type = ElementType::kInt64;
  } else {
    throw py::type_error(name + " has dtype " + std::string(py::str(object.attr("dtype"))) +
                         ", not int32 or int64" + cure);
  }
  auto array = py::reinterpret_borrow<py::array>(object);
  if (array.ndim() != 2) {
    throw py::value_error(name + " has " + std::to_string(array.ndim()) + " dimensions, not 2" + cure);
  }
  if (!array.writeable()) {
    throw py::value_error(name + " is read-only" + cure + ", or " + name + ".copy()");
  }
  // NumPy gives arrays without elements strides of 0.
  if (array.strides(1) != array.itemsize() && array.shape(1) > 1 && array.size() > 0) {
    throw py::value_error(name + " has elements " + std::to_string(array.strides(1)) + " bytes apart, not " +
                          std::to_string(array.itemsize()) +
                          "; pass a buffer whose rows are contiguous (any distance between rows will do)");
  }
  if ((array.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_) == 0) {
    throw py::value_error(name + " is not aligned to its element size" + cure);
  }
  out.data = static_cast<std::byte*>(array.mutable_data());
  out.rows = array.shape(0);
  out.columns = array.shape(1);
  out.row_stride = array.strides(0);
  return out;
}

PackOutputs outputs_of(const py::object& input_ids, const py::object& attention_mask,
                       const py::object& token_type_ids) {
  PackOutputs outputs{
      output_matrix(input_ids, "input_ids"), output_matrix(attention_mask, "attention_mask"), {}};
  if (!token_type_ids.is_none()) outputs.token_type_ids = output_matrix(token_type_ids, "token_type_ids");
  return outputs;
}

// Keeps the arrays of one call alive and shows them to the core.
struct Pairs {
  Pairs(const py::object& query, const py::object& documents)
      : queries{input_vector<std::int32_t>(query, "query")},
        docs(input_vector<std::int32_t>(documents, "docs")) {
    view();
  }

  Pairs(const py::sequence& many, const py::object& rows, const py::object& documents)
      : docs(input_vector<std::int32_t>(documents, "docs")) {
    queries.reserve(many.size());
    for (const py::handle query : many) {
      queries.push_back(input_vector<std::int32_t>(query, "queries[" + std::to_string(queries.size()) + "]"));
    }
    query_of_row.push_back(input_vector<std::int32_t>(rows, "query_of_row"));
    if (query_of_row[0].array.size() != docs.array.size()) {
      throw py::value_error("query_of_row has " + std::to_string(query_of_row[0].array.size()) +
                            " entries and docs " + std::to_string(docs.array.size()) +
                            "; they must be equally long");
    }
    view();
  }

  void view() {
    for (const Ids& query : queries) query_spans.push_back(query.span());
    batch = {query_spans, query_of_row.empty() ? std::span<const std::int32_t>() : query_of_row[0].span(),
             docs.span()};
  }

  std::vector<Ids> queries;
  std::vector<Ids> query_of_row;  // empty or one
  Ids docs;
  std::vector<std::span<const std::int32_t>> query_spans;
  PairBatch batch;
};

Layout layout_of(const PairPacker& packer, const Pairs& pairs, const TokenStore& store) {
  PackedLayout layout;
  {
    ReleaseGil release;
    layout = packer.layout(pairs.batch, store);
  }
  return Layout(std::move(layout));
}

// A short call: taking the GIL back would cost more than it does.
py::array_t<std::int32_t> lengths_of(const PairPacker& packer, const py::object& query,
                                     const TokenStore& store, const py::object& documents) {
  const Ids ids = input_vector<std::int32_t>(query, "query");
  const Ids docs = input_vector<std::int32_t>(documents, "docs");
  auto lengths = new_array<std::int32_t>(docs.span().size());
  packer.lengths(ids.span(), docs.span(), store, {lengths.mutable_data(), docs.span().size()});
  return lengths;
}

Layout pack_into(const PairPacker& packer, const Pairs& pairs, const TokenStore& store,
                 const PackOutputs& outputs) {
  PackedLayout layout;
  {
    ReleaseGil release;
    layout = packer.pack(pairs.batch, store, outputs);
  }
  return Layout(std::move(layout));
}

}  // namespace

void register_pair_packer(py::module_& m) {
  py::class_<Layout>(m, "PackedLayout", R"(Where the pairs of a batch are: rows ordered longest first.

Equal lengths keep the order of the caller's docs. Threads: immutable.)")
      .def_property_readonly(
          "rows", [](const Layout& layout) { return layout.lengths.size(); },
          "Number of rows: one for each document.")
      .def_readonly("width", &Layout::width, "Tokens of the longest row; 0 where there are no rows.")
      .def_readonly("total_tokens", &Layout::total_tokens, "Tokens of all rows, without padding.")
      .def_readonly("lengths", &Layout::lengths, "Tokens of each row: int32 (rows,), descending.")
      .def_readonly("permutation", &Layout::permutation, R"(Row -> position in docs: int32 (rows,).

`scores[layout.permutation] = row_scores` brings results back into the order of docs.)");

  py::class_<PairPacker>(m, "PairPacker", R"(Packs (query, document) pairs for BERT-like cross-encoders.

A row is [CLS] query [SEP] document [SEP] and padding, in buffers that the caller owns. Of q query and d document
tokens it keeps the first q' = min(q, max_query_tokens) and d' = min(d, max_doc_tokens, max_tokens - 3 - q'): where
both together are too long, the document gives way.
Threads: immutable; any number of threads may call everything at once, each with buffers of its own.)")
      .def(py::init([](std::int32_t cls_id, std::int32_t sep_id, std::int32_t pad_id,
                       std::int32_t max_query_tokens, std::int32_t max_doc_tokens, std::int32_t max_tokens) {
             return PairPacker({cls_id, sep_id, pad_id}, {max_query_tokens, max_doc_tokens, max_tokens});
           }),
           py::kw_only(), py::arg("cls_id"), py::arg("sep_id"), py::arg("pad_id") = 0,
           py::arg("max_query_tokens") = 32, py::arg("max_doc_tokens") = 128, py::arg("max_tokens") = 512,
           R"(Limits are in tokens; max_tokens includes the three special tokens.

Raises ValueError unless 1 <= max_query_tokens <= max_tokens - 3, 1 <= max_doc_tokens and ids are >= 0.)")
      .def(
          "layout",
          [](const PairPacker& packer, const py::object& query, const TokenStore& store,
             const py::object& docs) { return layout_of(packer, Pairs(query, docs), store); },
          py::arg("query"), py::arg("store"), py::arg("docs"), R"(What pack() would write, to size buffers by.

query: int32 (q,) token ids without special tokens; docs: int32 (n,) ordinals of `store`.
Raises IndexError for a document that does not exist, TypeError or ValueError for a wrong array.)")
      .def("lengths", &lengths_of, py::arg("query"), py::arg("store"), py::arg("docs"),
           R"(Tokens of each document's row, int32 (n,), in the order of `docs`.

Arguments and errors as in layout(). The GIL is held.)")
      .def(
          "pack",
          [](const PairPacker& packer, const py::object& query, const TokenStore& store,
             const py::object& docs, const py::object& input_ids, const py::object& attention_mask,
             const py::object& token_type_ids) {
            return pack_into(packer, Pairs(query, docs), store,
                             outputs_of(input_ids, attention_mask, token_type_ids));
          },
          py::arg("query"), py::arg("store"), py::arg("docs"), py::arg("input_ids"),
          py::arg("attention_mask"), py::arg("token_type_ids") = py::none(),
          R"(Write one row for each of `docs`, longest first.

query: int32 (q,) token ids without special tokens; docs: int32 (n,) ordinals of `store`.
input_ids, attention_mask, token_type_ids (or None): int32 or int64 (rows >= n, columns >= width), each of its own
dtype, rows contiguous, any distance between rows. All columns of the first n rows are written, in attention_mask 1
for tokens, in token_type_ids 1 for document [SEP], padding pad_id, 0 and 0; further rows are left as they are.
Raises IndexError for a document that does not exist, TypeError or ValueError for a wrong, read-only or too small
array; then nothing was written.)")
      .def(
          "layout_many",
          [](const PairPacker& packer, const py::sequence& queries, const py::object& query_of_row,
             const TokenStore& store,
             const py::object& docs) { return layout_of(packer, Pairs(queries, query_of_row, docs), store); },
          py::arg("queries"), py::arg("query_of_row"), py::arg("store"), py::arg("docs"),
          "What pack_many() would write.")
      .def(
          "pack_many",
          [](const PairPacker& packer, const py::sequence& queries, const py::object& query_of_row,
             const TokenStore& store, const py::object& docs, const py::object& input_ids,
             const py::object& attention_mask, const py::object& token_type_ids) {
            return pack_into(packer, Pairs(queries, query_of_row, docs), store,
                             outputs_of(input_ids, attention_mask, token_type_ids));
          },
          py::arg("queries"), py::arg("query_of_row"), py::arg("store"), py::arg("docs"),
          py::arg("input_ids"), py::arg("attention_mask"), py::arg("token_type_ids") = py::none(),
          R"(As pack(), for pairs of several queries in one batch.

queries: sequence of int32 (q,); query_of_row: int32 (n,), docs[i] is paired with queries[query_of_row[i]].
Raises IndexError for a query that does not exist, else as pack().)");
}

}  // namespace searchpipe::bindings
