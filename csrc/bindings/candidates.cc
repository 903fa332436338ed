#include "core/candidates.h"

#include <pybind11/stl.h>

#include <algorithm>

#include "bindings/arrays.h"
#include "bindings/module.h"
#include "core/message.h"

namespace py = pybind11;

namespace searchpipe::bindings {
namespace {

using Docs = InputVector<std::int32_t>;
using Scores = InputVector<float>;

std::size_t count_of(std::int64_t value, const char* name) {
  if (value < 0) throw py::value_error(message(name, " is ", value, "; it must be at least 0"));
  return static_cast<std::size_t>(value);
}

bool finite(const py::array& values) {
  if (py::isinstance<py::array_t<float>>(values) && (values.flags() & py::array::c_style) != 0) {
    return all_finite({static_cast<const float*>(values.data()), static_cast<std::size_t>(values.size())});
  }
  return py::module_::import("numpy").attr("isfinite")(values).attr("all")().cast<bool>();
}

py::array_t<float> scale(const py::object& column) {
  const auto scaled = [](const auto& values) {
    py::array_t<float> out = new_array<float>(values.span().size());
    scale_to_unit(values.span(), {out.mutable_data(), values.span().size()});
    return out;
  };
  if (py::isinstance<py::array_t<double>>(column)) return scaled(input_vector<double>(column, "column"));
  return scaled(input_vector<float>(column, "column"));
}

py::tuple rank(const py::object& ids, const py::object& scores, std::int64_t limit, std::int32_t count) {
  const auto documents = input_vector<std::int64_t>(ids, "ids");
  const Scores values = input_vector<float>(scores, "scores");
  RankedDocuments found = ranked(documents.span(), values.span(), count_of(limit, "limit"), count);
  return py::make_tuple(to_array(std::move(found.docs)), to_array(std::move(found.scores)));
}

py::tuple blend(const py::object& logits, const py::object& odds_against, const py::object& prior,
                float weight, std::int64_t count) {
  Blend blend = blend_opinion(input_vector<float>(logits, "logits").span(),
                              input_vector<float>(odds_against, "odds_against").span(),
                              input_vector<float>(prior, "prior").span(), weight, count_of(count, "count"));
  return py::make_tuple(to_array(std::move(blend.logits)), to_array(std::move(blend.blended)),
                        to_array(std::move(blend.order)));
}

// Lists of Python numbers: a page is built from them one by one.
std::vector<std::vector<std::int32_t>> places(const py::object& docs, const py::sequence& orders) {
  const Docs wanted = input_vector<std::int32_t>(docs, "docs");
  std::vector<Docs> arrays;
  std::vector<std::span<const std::int32_t>> spans;
  for (const py::handle order : orders) {
    arrays.push_back(input_vector<std::int32_t>(order, "orders[" + std::to_string(arrays.size()) + "]"));
    spans.push_back(arrays.back().span());
  }
  const std::vector<std::int32_t> flat = places_in(wanted.span(), spans);
  std::vector<std::vector<std::int32_t>> found;
  const auto width = static_cast<std::ptrdiff_t>(wanted.span().size());
  for (auto row = flat.begin(); found.size() < spans.size(); row += width)
    found.emplace_back(row, row + width);
  return found;
}

template <class T>
py::array_t<T> gathered(std::span<const T> values, std::span<const std::int32_t> rows) {
  py::array_t<T> out = new_array<T>(rows.size());
  std::transform(rows.begin(), rows.end(), out.mutable_data(),
                 [&](std::int32_t row) { return values[static_cast<std::size_t>(row)]; });
  return out;
}

// The columns at the rows of `order`, which are all within `count`.
py::list taken_columns(const py::sequence& columns, std::span<const std::int32_t> order, std::size_t count) {
  py::list taken;
  for (const py::handle column : columns) {
    if (!py::isinstance<py::array_t<float>>(column)) {  // a stage of the user's own may keep anything
      taken.append(column[to_array(std::vector<std::int32_t>(order.begin(), order.end()))]);
      continue;
    }
    const Scores values = input_vector<float>(column, "columns[" + std::to_string(taken.size()) + "]");
    if (values.span().size() != count) {
      throw py::value_error(message("columns[", taken.size(), "] has ", values.span().size(), " values for ",
                                    count, " candidates; both must be parallel"));
    }
    taken.append(gathered(values.span(), order));
  }
  return taken;
}

py::tuple take(const py::object& docs, const py::sequence& columns, const py::object& rows, bool rest) {
  const Docs documents = input_vector<std::int32_t>(docs, "docs");
  const Docs chosen = input_vector<std::int32_t>(rows, "rows");
  const std::size_t count = documents.span().size();
  std::vector<std::int32_t> moved;
  std::span<const std::int32_t> order = chosen.span();
  if (rest) {
    moved = moved_to_front(order, count);
    order = moved;
  }
  for (const std::int32_t row : order) {
    if (row < 0 || static_cast<std::size_t>(row) >= count) {
      throw py::index_error(message("row ", row, " is outside of 0..", count, " candidates"));
    }
  }
  return py::make_tuple(gathered(documents.span(), order), taken_columns(columns, order, count));
}

py::array_t<float> odds(const py::object& logits, float temperature) {
  const Scores values = input_vector<float>(logits, "logits");
  py::array_t<float> out = new_array<float>(values.span().size());
  log_odds_against(values.span(), temperature, {out.mutable_data(), values.span().size()});
  return out;
}

py::tuple reorder(const py::object& docs, const py::sequence& columns, const py::object& logits,
                  const py::object& odds_against, const py::object& prior, float weight) {
  const Docs documents = input_vector<std::int32_t>(docs, "docs");
  const std::size_t count = documents.span().size();
  const Scores opinions = input_vector<float>(logits, "logits");
  const Scores against = input_vector<float>(odds_against, "odds_against");
  const Scores before = input_vector<float>(prior, "prior");
  if (before.span().size() < opinions.span().size()) {
    throw py::value_error(message("prior has ", before.span().size(), " values for ", opinions.span().size(),
                                  " logits; it must not be shorter"));
  }
  const Blend blend = blend_opinion(opinions.span(), against.span(),
                                    before.span().first(opinions.span().size()), weight, count);
  return py::make_tuple(gathered(documents.span(), blend.order), taken_columns(columns, blend.order, count),
                        gathered(std::span<const float>(blend.logits), blend.order),
                        gathered(std::span<const float>(blend.blended), blend.order));
}

// How a feature's column is made of what was given for it.
void fill_feature(const std::string& how, const py::object& given, const Docs& docs, std::span<float> out) {
  if (how == "scaled" && py::isinstance<py::array_t<double>>(given)) {
    scale_to_unit(input_vector<double>(given, how).span(), out);
    return;
  }
  const Scores values = input_vector<float>(given, how);
  if (how == "scaled") {
    scale_to_unit(values.span(), out);
  } else if (how == "by document") {
    for (std::size_t i = 0; i < out.size(); ++i) {
      const std::int32_t doc = docs.span()[i];
      if (doc < 0 || static_cast<std::size_t>(doc) >= values.span().size()) {
        throw py::index_error(message("document ", doc, " is outside of 0..", values.span().size()));
      }
      out[i] = values.span()[static_cast<std::size_t>(doc)];
    }
  } else if (how == "by place" && values.span().size() >= out.size()) {
    std::copy_n(values.span().begin(), out.size(), out.begin());
  } else {
    throw py::value_error("a feature is '" + how + "' of " + std::to_string(values.span().size()) +
                          " values; it must be 'scaled', 'by document', or 'by place' of enough");
  }
}

py::array_t<float> features(const py::object& docs, const py::sequence& parts) {
  const Docs documents = input_vector<std::int32_t>(docs, "docs");
  const std::size_t count = documents.span().size();
  const std::size_t width = parts.size();
  py::array_t<float> matrix({static_cast<py::ssize_t>(count), static_cast<py::ssize_t>(width)});
  float* const cells = matrix.mutable_data();
  std::vector<float> column(count);
  for (std::size_t place = 0; place < width; ++place) {
    const py::object part = parts[place];
    if (part.is_none()) {
      std::fill(column.begin(), column.end(), 0.0F);
    } else {
      const auto pair = part.cast<std::pair<std::string, py::object>>();
      fill_feature(pair.first, pair.second, documents, column);
    }
    for (std::size_t i = 0; i < count; ++i) cells[i * width + place] = column[i];
  }
  return matrix;
}

}  // namespace

void register_candidates(py::module_& m) {
  m.def("all_finite", &finite, py::arg("values"),
        "Whether an array of floats holds no NaN and no infinity. Threads: any; the GIL is held, as in all "
        "functions on the candidates of one query: taking it back would cost more than they do.");

  m.def(
      "best_first",
      [](const py::object& scores) {
        return to_array(best_first(input_vector<float>(scores, "scores").span()));
      },
      py::arg("scores"),
      R"(Places of float32 scores from the largest down: int32 (n,); equal ones in their order, NaN last.

Raises TypeError, ValueError for another array. Threads: any.)");

  m.def("ranked", &rank, py::arg("ids"), py::arg("scores"), py::kw_only(), py::arg("limit"), py::arg("count"),
        R"(At most `limit` documents from the largest score down: (docs int32 (m,), scores float32 (m,)).

ids: int64 (n,); those outside of 0..count - 1, such as the -1 that FAISS fills up with, are left out. scores:
float32 (n,). Equal scores by document, NaN last. Raises ValueError for arrays that are not parallel, TypeError for
other dtypes. Threads: any.)");

  m.def("scale_to_unit", &scale, py::arg("column"),
        R"((x - min) / (max - min) over the finite values of a column: float32 (n,).

column: float32 or float64 (n,), which is the arithmetic used. 1 where all finite values are equal, 0 for those that
are not finite. Raises TypeError, ValueError for another array. Threads: any.)");

  m.def("blend_opinion", &blend, py::arg("logits"), py::arg("odds_against"), py::arg("prior"), py::kw_only(),
        py::arg("weight"), py::arg("count"),
        R"(Blend a model's opinion on the first candidates into the order of all `count` of them.

logits: float32 (m,), m <= count, at least one of them finite; odds_against: exp(-logit / temperature), float32
(m,); prior: float32 (m,). A candidate with a finite logit gets weight / (1 + odds_against) + prior; the others
follow behind the worst of these, in their order.
Returns (logits float32 (count,), NaN where there is none; blended float32 (count,); order int32 (count,), best
first). Raises TypeError, ValueError for other arrays. Threads: any.)");

  m.def("log_odds_against", &odds, py::arg("logits"), py::kw_only(), py::arg("temperature"),
        R"(-logit / temperature, held within -30 and 30: float32 (n,), of which NumPy takes the exponential.

logits: float32 (n,); NaN stay. Raises TypeError, ValueError for another array. Threads: any.)");

  m.def(
      "reorder_by_opinion", &reorder, py::arg("docs"), py::arg("columns"), py::arg("logits"),
      py::arg("odds_against"), py::arg("prior"), py::kw_only(), py::arg("weight"),
      R"(blend_opinion() and take() in one: (docs int32 (n,), [column ...], logits float32 (n,), blended float32 (n,)).

docs, columns: as for take(), of all candidates; prior: float32, as long as `logits` or longer, the rest is not
read. All that is returned is in the blended order. Raises as the two do. Threads: any.)");

  m.def("feature_matrix", &features, py::arg("docs"), py::arg("parts"),
        R"(Features of candidates side by side: float32 (n, len(parts)).

docs: int32 (n,). parts: None for a column of zeros, or a pair of how and what: ("scaled", float32 or float64 (n,))
as scale_to_unit(), ("by document", float32 (count,)) the values at `docs`, ("by place", float32 (n or more,)) the
first n values. Raises IndexError for a document outside, TypeError, ValueError for other arrays. Threads: any.)");

  m.def("places_in", &places, py::arg("docs"), py::arg("orders"),
        R"(For each of `orders` the place, from 1, of each of `docs` in it; 0 where it is not in it.

docs and each order: int32 (n,), of a document that is twice in one the first place counts. Returns a list of ints
for each order. Raises TypeError, ValueError for other arrays. Threads: any.)");

  m.def("take", &take, py::arg("docs"), py::arg("columns"), py::arg("rows"), py::kw_only(),
        py::arg("rest") = false,
        R"(Candidates at `rows`, in that order: (docs int32 (m,), [column float32 (m,) ...]).

docs: int32 (n,); columns: (n,) each, float32 or whatever NumPy can index; rows: int32. rest: behind them all the others, in their order; `rows`
must then be distinct. Raises IndexError for a row outside, TypeError, ValueError for other arrays. Threads: any.)");
}

}  // namespace searchpipe::bindings
