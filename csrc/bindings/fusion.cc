#include "core/fusion.h"

#include <pybind11/stl.h>

#include <optional>
#include <string>

#include "bindings/arrays.h"
#include "bindings/columns.h"
#include "bindings/gil.h"
#include "bindings/module.h"
#include "core/message.h"

namespace py = pybind11;

namespace searchpipe::bindings {
namespace {

using Weights = std::optional<std::vector<double>>;
using Docs = InputVector<std::int32_t>;

std::span<const double> view(const Weights& weights) {
  return weights ? std::span<const double>(*weights) : std::span<const double>();
}

// An empty sequence of weights is not the same as none when there are lists.
void check_given(const Weights& weights, std::size_t lists) {
  if (weights && weights->size() != lists) {
    throw py::value_error(std::to_string(weights->size()) + " weights for " + std::to_string(lists) +
                          " lists; pass one for each list, or None");
  }
}

constexpr std::size_t kLongLists = 8192;  // documents; fewer are fused in some ten microseconds

py::tuple to_tuple(FusedList&& fused) {
  return py::make_tuple(to_array(std::move(fused.docs)), to_array(std::move(fused.scores)));
}

py::tuple rrf(const py::sequence& lists, const Weights& weights, double k, std::int64_t limit) {
  std::vector<Docs> arrays;
  std::vector<std::span<const std::int32_t>> spans;
  for (const py::handle list : lists) {
    arrays.push_back(input_vector<std::int32_t>(list, "lists[" + std::to_string(arrays.size()) + "]"));
    spans.push_back(arrays.back().span());
  }
  check_given(weights, arrays.size());
  std::size_t documents = 0;
  for (const auto& span : spans) documents += span.size();
  FusedList fused;
  {
    const ReleaseIfLong release(documents, kLongLists);
    fused = reciprocal_rank_fusion(spans, view(weights), k, limit);
  }
  return to_tuple(std::move(fused));
}

Normalization normalization_named(const std::string& name) {
  if (name == "minmax") return Normalization::kMinMax;
  if (name == "zscore") return Normalization::kZScore;
  if (name == "none") return Normalization::kNone;
  throw py::value_error("normalize is '" + name + "'; it must be 'minmax', 'zscore' or 'none'");
}

// Keeps the arrays of one call alive and shows them to the core.
struct Lists {
  explicit Lists(const py::sequence& lists) {
    for (const py::handle item : lists) {
      const std::string name = "lists[" + std::to_string(views.size()) + "]";
      if (!py::isinstance<py::sequence>(item) || py::len(item) != 2) {
        throw py::type_error(name + " is no pair; pass (docs, scores)");
      }
      const auto pair = py::reinterpret_borrow<py::sequence>(item);
      const py::object docs = pair[0];
      const py::object scores = pair[1];
      arrays.emplace_back(input_vector<std::int32_t>(docs, name + "[0]"),
                          input_vector<float>(scores, name + "[1]"));
      views.push_back({arrays.back().first.span(), arrays.back().second.span()});
      documents += views.back().docs.size();
    }
  }

  std::vector<std::pair<Docs, InputVector<float>>> arrays;
  std::vector<ScoredList> views;
  std::size_t documents = 0;
};

py::tuple fuse(const py::sequence& lists, const Weights& weights, const std::string& normalize,
               std::int64_t limit) {
  const Normalization normalization = normalization_named(normalize);
  const Lists given(lists);
  check_given(weights, given.views.size());
  FusedList fused;
  {
    const ReleaseIfLong release(given.documents, kLongLists);
    fused = fuse_scores(given.views, view(weights), normalization, limit);
  }
  return to_tuple(std::move(fused));
}

double weight_of(const py::dict& weights, py::handle name) {
  PyObject* const found = PyDict_GetItemWithError(weights.ptr(), name.ptr());
  if (found == nullptr && PyErr_Occurred() != nullptr) throw py::error_already_set();
  const double weight = found == nullptr ? 1.0 : PyFloat_AsDouble(found);
  if (weight == -1.0 && PyErr_Occurred() != nullptr) throw py::error_already_set();
  return weight;
}

py::tuple fuse_found(const py::dict& found, const py::dict& weights, const py::str& method, double k,
                     const py::object& name) {
  FusionRule rule;
  rule.by_rank = PyUnicode_CompareWithASCIIString(method.ptr(), "rrf") == 0;
  rule.k = k;
  if (!rule.by_rank) rule.normalization = normalization_named(method);
  const std::size_t count = found.size();
  std::vector<py::object> names;
  std::vector<double> given;
  std::vector<VectorView<std::int32_t>> docs;
  std::vector<VectorView<float>> scores;
  std::vector<py::object> kept;  // arrays are read without the GIL
  std::vector<ScoredList> lists;
  names.reserve(count), given.reserve(count), docs.reserve(count), scores.reserve(count);
  kept.reserve(2 * count), lists.reserve(count);
  std::size_t documents = 0;
  for (const auto& [key, value] : found) {
    if (!py::isinstance<py::tuple>(value) || PyTuple_GET_SIZE(value.ptr()) != 2) {
      throw py::type_error(
          message("found[", py::repr(key).cast<std::string>(), "] is no pair; give (docs, scores)"));
    }
    names.push_back(py::reinterpret_borrow<py::object>(key));
    const auto called = [&](const char* what) {
      return [&names, what] {
        return message("found[", py::repr(names.back()).cast<std::string>(), "][", what, "]");
      };
    };
    kept.push_back(py::reinterpret_borrow<py::object>(PyTuple_GET_ITEM(value.ptr(), 0)));
    docs.emplace_back(kept.back(), called("0"));
    kept.push_back(py::reinterpret_borrow<py::object>(PyTuple_GET_ITEM(value.ptr(), 1)));
    scores.emplace_back(kept.back(), called("1"));
    given.push_back(weight_of(weights, key));
    lists.push_back({docs.back().span(), scores.back().span()});
    documents += lists.back().docs.size();
  }
  FusedColumns made;
  {
    const ReleaseIfLong release(documents, kLongLists);
    made = fuse_with_columns(lists, given, rule);
  }
  const std::size_t width = made.fused.docs.size();
  const py::dict columns;
  set_item(columns, name, copied<float>(made.fused.scores));
  for (std::size_t i = 0; i < count; ++i) {
    set_item(columns, names[i],
             copied<float>(std::span<const float>(made.columns).subspan(i * width, width)));
  }
  return py::make_tuple(copied<std::int32_t>(made.fused.docs), columns);
}

}  // namespace

void register_fusion(py::module_& m) {
  m.def("rrf", &rrf, py::arg("lists"), py::kw_only(), py::arg("weights") = py::none(), py::arg("k") = 60.0,
        py::arg("limit") = 0,
        R"(Reciprocal rank fusion of ranked lists: (docs int32 (m,), scores float32 (m,)).

score(d) = sum of weight / (k + rank of d) over the lists that have d, ranks from 1 (Cormack, Clarke, Buettcher, SIGIR
2009). lists: int32 (n,) each, best first; a document's second place in the same list is ignored. Equal scores are
ordered by the first list that has the document, then by its place there. limit: how many to keep, 0 for all.
Raises ValueError for negative documents, weights, k or limit, and for NaN. Threads: any.)");

  m.def("fuse_scores", &fuse, py::arg("lists"), py::kw_only(), py::arg("weights") = py::none(),
        py::arg("normalize") = "minmax", py::arg("limit") = 0,
        R"(Weighted sum of normalised scores: (docs int32 (m,), scores float32 (m,)).

lists: pairs (docs int32 (n,), scores float32 (n,)), higher is better, in any order; a document's second place in the
same list is ignored. normalize, within each list:
  "minmax"  (s - min) / (max - min), 1 where all are equal; a list without the document adds 0.
  "zscore"  (s - mean) / population standard deviation, 0 where all are equal; a list without it adds its lowest.
  "none"    s; a list without the document adds 0 (CombSUM, Fox and Shaw, TREC-2, 1994).
Ties and limit as in rrf(). Raises ValueError for NaN or infinite scores and as rrf() does. Threads: any.)");

  m.def("fuse_found", &fuse_found, py::arg("found"), py::arg("weights"), py::arg("method"), py::arg("k"),
        py::arg("name"),
        R"(Fuse all documents, and lay the scores that went in beside them: (docs int32 (m,), columns).

found: dict of a list's name to its (docs int32 (n,), scores float32 (n,)). weights: dict of a list's name to its
weight; 1 where it has none. method: "rrf", which reads the ranks alone and `k`, or how fuse_scores() normalizes.
columns: a new dict of float32 (m,): the fused scores under `name`, and under each list's name its own scores, of the
first place of a document, NaN where it has none. docs and fused scores are as rrf() and fuse_scores() give them.
Raises as they do. Threads: any.)");
}

}  // namespace searchpipe::bindings
