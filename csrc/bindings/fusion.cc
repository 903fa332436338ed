#include "core/fusion.h"

#include <pybind11/stl.h>

#include <optional>
#include <string>

#include "bindings/arrays.h"
#include "bindings/gil.h"
#include "bindings/module.h"

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

py::tuple fuse_columns(const py::sequence& lists, const Weights& weights, const std::string& method,
                       double k) {
  FusionRule rule;
  rule.by_rank = method == "rrf";
  rule.k = k;
  if (!rule.by_rank) rule.normalization = normalization_named(method);
  const Lists given(lists);
  check_given(weights, given.views.size());
  FusedColumns found;
  {
    const ReleaseIfLong release(given.documents, kLongLists);
    found = fuse_with_columns(given.views, view(weights), rule);
  }
  py::list columns;
  const std::size_t width = found.fused.docs.size();
  for (std::size_t i = 0; i < given.views.size(); ++i) {
    py::array_t<float> column = new_array<float>(width);
    std::copy_n(found.columns.data() + i * width, width, column.mutable_data());
    columns.append(std::move(column));
  }
  return py::make_tuple(to_array(std::move(found.fused.docs)), to_array(std::move(found.fused.scores)),
                        columns);
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

  m.def("fuse_columns", &fuse_columns, py::arg("lists"), py::kw_only(), py::arg("weights") = py::none(),
        py::arg("method") = "rrf", py::arg("k") = 60.0,
        R"(Fuse all documents, and lay the scores that went in beside them: (docs, scores, columns).

lists: pairs (docs int32 (n,), scores float32 (n,)). method: "rrf", which reads the ranks alone and `k`, or how
fuse_scores() normalizes. docs int32 (m,) and scores float32 (m,) are as rrf() and fuse_scores() give them; columns
are a list of float32 (m,): for each list its own scores, of the first place of a document, NaN where it has none.
Raises as they do. Threads: any.)");
}

}  // namespace searchpipe::bindings
