#include <cstdint>
#include <span>
#include <vector>

#include "bindings/columns.h"
#include "bindings/module.h"
#include "core/candidates.h"
#include "core/message.h"

namespace py = pybind11;

namespace searchpipe::bindings {
namespace {

using Docs = std::span<const std::int32_t>;

bool is(const py::str& text, const char* other) {
  return PyUnicode_CompareWithASCIIString(text.ptr(), other) == 0;
}

// Calls `use(i, value)` with the feature of each of `docs`, made as `part` says; not at all for None, which
// is a column of zeros. `room` is as long as `docs`.
template <class Use>
void each_value(py::handle part, Docs docs, std::span<float> room, Use&& use) {
  if (part.is_none()) return;
  if (!PyTuple_Check(part.ptr()) || PyTuple_GET_SIZE(part.ptr()) != 2) {
    throw py::type_error("a feature is neither None nor a pair of how and what");
  }
  // Not the macros: those of a debug build of Python are no expressions of C++ within a template.
  const auto how = py::reinterpret_borrow<py::object>(PyTuple_GetItem(part.ptr(), 0)).cast<py::str>();
  const py::handle given = PyTuple_GetItem(part.ptr(), 1);
  const auto called = [&] { return how.cast<std::string>(); };
  const bool scaled = is(how, "scaled");
  if (scaled && py::isinstance<py::array_t<double>>(given)) {
    scale_to_unit(VectorView<double>(given, called).span(), room);
    for (std::size_t i = 0; i < docs.size(); ++i) use(i, room[i]);
    return;
  }
  const VectorView<float> view(given, called);
  const std::span<const float> values = view.span();
  if (scaled) {
    scale_to_unit(values, room);
    for (std::size_t i = 0; i < docs.size(); ++i) use(i, room[i]);
  } else if (is(how, "by document")) {
    for (std::size_t i = 0; i < docs.size(); ++i) {
      const std::int32_t doc = docs[i];
      if (doc < 0 || static_cast<std::size_t>(doc) >= values.size()) {
        throw py::index_error(message("document ", doc, " is outside of 0..", values.size()));
      }
      use(i, values[static_cast<std::size_t>(doc)]);
    }
  } else if (is(how, "by place") && values.size() >= docs.size()) {
    for (std::size_t i = 0; i < docs.size(); ++i) use(i, values[i]);
  } else {
    throw py::value_error(message("a feature is '", called(), "' of ", values.size(),
                                  " values; it must be 'scaled', 'by document', or 'by place' of enough"));
  }
}

py::array_t<float> feature_matrix(const py::object& docs, const py::sequence& parts) {
  const VectorView<std::int32_t> documents(docs, [] { return "docs"; });
  const std::size_t count = documents.size();
  const std::size_t width = parts.size();
  py::array_t<float> matrix({static_cast<py::ssize_t>(count), static_cast<py::ssize_t>(width)});
  float* const cells = matrix.mutable_data();
  std::fill_n(cells, count * width, 0.0F);
  std::vector<float> room(count);
  for (std::size_t place = 0; place < width; ++place) {
    const py::object part = parts[place];
    each_value(part, documents.span(), room,
               [&](std::size_t i, float value) { cells[i * width + place] = value; });
  }
  return matrix;
}

py::object weigh_features(const py::object& docs, const py::sequence& parts, const py::object& weights) {
  const VectorView<std::int32_t> documents(docs, [] { return "docs"; });
  const VectorView<float> factors(weights, [] { return "weights"; });
  if (factors.size() != parts.size()) {
    throw py::value_error(
        message(factors.size(), " weights for ", parts.size(), " features; pass one for each"));
  }
  NewVector<float> sums(documents.size());
  std::fill(sums.out.begin(), sums.out.end(), 0.0F);
  std::vector<float> room(documents.size());
  for (std::size_t place = 0; place < factors.size(); ++place) {
    const float weight = factors.span()[place];
    const py::object part = parts[place];
    each_value(part, documents.span(), room,
               [out = sums.out.data(), weight](std::size_t i, float value) { out[i] += weight * value; });
  }
  return std::move(sums.array);
}

}  // namespace

void register_features(py::module_& m) {
  m.def("feature_matrix", &feature_matrix, py::arg("docs"), py::arg("parts"),
        R"(Features of candidates side by side: float32 (n, len(parts)).

docs: int32 (n,). parts: None for a column of zeros, or a pair of how and what: ("scaled", float32 or float64 (n,))
as scale_to_unit(), ("by document", float32 (count,)) the values at `docs`, ("by place", float32 (n or more,)) the
first n values. Raises IndexError for a document outside, TypeError, ValueError for other arrays. Threads: any.)");

  m.def("weigh_features", &weigh_features, py::arg("docs"), py::arg("parts"), py::arg("weights"),
        R"(The weighted sum of features: float32 (n,), added up in float32 from the first part to the last.

docs, parts: as for feature_matrix(); weights: float32 (len(parts),). Raises as it does. Threads: any.)");
}

}  // namespace searchpipe::bindings
