#include "core/candidates.h"

#include <pybind11/stl.h>

#include <algorithm>

#include "bindings/arrays.h"
#include "bindings/columns.h"
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

// Candidates in another order: docs, their scores, and what is carried beside them (None or a dict).
class Reordered {
 public:
  Reordered(py::handle docs, py::handle scores, py::handle beside)
      : docs_(docs, [] { return "docs"; }), scores_(scores), beside_(beside) {
    if (!PyDict_Check(scores.ptr())) throw py::type_error("scores is no dict of a name to a column");
    if (!beside.is_none() && !PyDict_Check(beside.ptr())) {
      throw py::type_error("beside is neither None nor a dict of a name to a column");
    }
  }

  std::size_t count() const { return docs_.size(); }

  // (docs, scores, beside) at the rows of `order`, which are all within. `more` adds to the scores.
  template <class More>
  py::tuple at(std::span<const std::int32_t> order, More&& more) const {
    const py::dict scores = taken(scores_, order, "scores");
    more(scores);
    py::object beside = py::none();
    if (!beside_.is_none()) beside = taken(beside_, order, "beside");
    return py::make_tuple(gathered(docs_.span(), order), scores, beside);
  }

 private:
  py::dict taken(py::handle columns, std::span<const std::int32_t> order, const char* what) const {
    py::dict made;
    for (const auto& [borrowed, held] : py::reinterpret_borrow<py::dict>(columns)) {
      // Owned: indexing what a stage of the user's own keeps may run anything.
      const auto name = py::reinterpret_borrow<py::object>(borrowed);
      const auto column = py::reinterpret_borrow<py::object>(held);
      if (!py::isinstance<py::array_t<float>>(column)) {
        set_item(made, name, column[copied<std::int32_t>(order)]);
        continue;
      }
      const auto called = [&] { return message(what, "[", py::repr(name).cast<std::string>(), "]"); };
      const VectorView<float> values(column, called);
      if (values.size() != count()) {
        throw py::value_error(message(called(), " has ", values.size(), " values for ", count(),
                                      " candidates; both must be parallel"));
      }
      set_item(made, name, gathered(values.span(), order));
    }
    return made;
  }

  VectorView<std::int32_t> docs_;
  py::handle scores_;
  py::handle beside_;
};

py::tuple take(const py::object& docs, const py::object& scores, const py::object& beside,
               const py::object& rows, bool rest) {
  const Reordered candidates(docs, scores, beside);
  const VectorView<std::int32_t> chosen(rows, [] { return "rows"; });
  const std::size_t count = candidates.count();
  std::vector<std::int32_t> moved;
  std::span<const std::int32_t> order = chosen.span();
  if (rest) {
    moved = moved_to_front(order, count);
    order = moved;
  } else {
    for (const std::int32_t row : order) {
      if (row < 0 || static_cast<std::size_t>(row) >= count) {
        throw py::index_error(message("row ", row, " is outside of 0..", count, " candidates"));
      }
    }
  }
  return candidates.at(order, [](const py::dict&) {});
}

py::object order_by(const py::object& docs, const py::object& scores, const py::object& beside,
                    const py::object& name, const py::object& values) {
  const Reordered candidates(docs, scores, beside);
  const VectorView<float> keys(values, [] { return "values"; });
  if (keys.size() != candidates.count()) {
    throw py::value_error(message("there are ", keys.size(), " values for ", candidates.count(),
                                  " candidates; both must be parallel"));
  }
  if (!all_finite(keys.span())) return py::none();
  const std::vector<std::int32_t> order = best_first(keys.span());
  return candidates.at(
      order, [&](const py::dict& made) { set_item(made, name, gathered<float>(keys.span(), order)); });
}

py::object odds(const py::object& logits, float temperature) {
  const VectorView<float> values(logits, [] { return "logits"; });
  NewVector<float> made(values.size());
  odds_against(values.span(), temperature, made.out);
  return std::move(made.array);
}

py::tuple reorder(const py::object& docs, const py::object& scores, const py::object& beside,
                  const py::object& name, const py::object& logits, float temperature,
                  const py::object& prior, float weight) {
  const Reordered candidates(docs, scores, beside);
  const VectorView<float> opinions(logits, [] { return "logits"; });
  const VectorView<float> before(prior, [] { return "prior"; });
  if (before.size() < opinions.size()) {
    throw py::value_error(message("prior has ", before.size(), " values for ", opinions.size(),
                                  " logits; it must not be shorter"));
  }
  std::vector<float> odds(opinions.size());
  odds_against(opinions.span(), temperature, odds);
  const Blend blend =
      blend_opinion(opinions.span(), odds, before.span().first(opinions.size()), weight, candidates.count());
  return candidates.at(blend.order, [&](const py::dict& made) {
    set_item(made, name, gathered<float>(blend.logits, blend.order));
    set_item(made, py::str("blend"), gathered<float>(blend.blended, blend.order));
  });
}

}  // namespace

void register_candidates(py::module_& m) {
  m.def("all_finite", &finite, py::arg("values"),
        "Whether an array of floats holds no NaN and no infinity. Threads: any; the GIL is held, as in all "
        "functions on the candidates of one query: taking it back would cost more than they do.");

  m.def(
      "best_first",
      [](const py::object& scores) {
        return copied<std::int32_t>(best_first(VectorView<float>(scores, [] { return "scores"; }).span()));
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

  m.def("odds_against", &odds, py::arg("logits"), py::kw_only(), py::arg("temperature"),
        R"(exp(-logit / temperature), the exponent held within -30 and 30: float32 (n,).

logits: float32 (n,); NaN stay. Raises TypeError, ValueError for another array. Threads: any.)");

  m.def(
      "reorder_by_opinion", &reorder, py::arg("docs"), py::arg("scores"), py::arg("beside"), py::arg("name"),
      py::arg("logits"), py::arg("temperature"), py::arg("prior"), py::arg("weight"),
      R"(odds_against(), blend_opinion() and take() in one: (docs int32 (n,), scores, beside), in the blended order.

docs, scores, beside: as for take(), of all candidates; prior: float32, as long as `logits` or longer, the rest is
not read. To the scores are added the logits under `name` and by what they are ordered under "blend". Raises as the
two do. Threads: any.)");

  m.def(
      "order_by", &order_by, py::arg("docs"), py::arg("scores"), py::arg("beside"), py::arg("name"),
      py::arg("values"),
      R"(best_first() and take() in one: (docs int32 (n,), scores, beside), by `values` from the largest down.

docs, scores, beside: as for take(); values: float32 (n,), which are added to the scores under `name`. None if one of
them is not finite. Raises TypeError, ValueError for other arrays. Threads: any.)");

  m.def("places_in", &places, py::arg("docs"), py::arg("orders"),
        R"(For each of `orders` the place, from 1, of each of `docs` in it; 0 where it is not in it.

docs and each order: int32 (n,), of a document that is twice in one the first place counts. Returns a list of ints
for each order. Raises TypeError, ValueError for other arrays. Threads: any.)");

  m.def("take", &take, py::arg("docs"), py::arg("scores"), py::arg("beside"), py::arg("rows"),
        py::arg("rest") = false,
        R"(Candidates at `rows`, in that order: (docs int32 (m,), scores, beside), new dicts of new columns.

docs: int32 (n,); scores: dict of columns (n,) each, float32 or whatever NumPy can index; beside: None or such a dict,
which None stays; rows: int32. rest: behind them all the others, in their order; `rows` must then be distinct. Raises
IndexError for a row outside, TypeError, ValueError for other arrays. Threads: any.)");
}

}  // namespace searchpipe::bindings
