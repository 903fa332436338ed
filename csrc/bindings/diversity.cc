#include <pybind11/stl.h>

#include <algorithm>
#include <optional>

#include "bindings/arrays.h"
#include "bindings/gil.h"
#include "bindings/module.h"
#include "core/dpp.h"
#include "core/message.h"
#include "core/mmr.h"
#include "core/selection.h"
#include "core/touch.h"

namespace py = pybind11;

namespace searchpipe::bindings {
namespace {

// A Selection whose arrays Python owns. Each is made when it is first asked for: few are.
class BoundSelection {
 public:
  explicit BoundSelection(Selection&& selection) : selection_(std::move(selection)) {}

  const py::object& order() { return made(order_, selection_.order); }
  const py::object& gains() { return made(gains_, selection_.gains); }
  const py::object& relaxed() {
    if (!relaxed_) {
      py::array_t<bool> flags(static_cast<py::ssize_t>(size()));
      std::copy(selection_.relaxed.begin(), selection_.relaxed.end(), flags.mutable_data());
      relaxed_ = std::move(flags);
    }
    return relaxed_;
  }

  std::size_t size() const { return selection_.relaxed.size(); }
  std::size_t count_relaxed() const {
    return size() - static_cast<std::size_t>(
                        std::count(selection_.relaxed.begin(), selection_.relaxed.end(), std::uint8_t{0}));
  }
  std::size_t count_changed() const { return count_changed_; }

 private:
  template <class T>
  const py::object& made(py::object& array, std::vector<T>& values) {
    if (!array) array = to_array(std::move(values));
    return array;
  }

  Selection selection_;
  std::size_t count_changed_ = changed_places(selection_.order);
  py::object order_, gains_, relaxed_;
};

// The matrix is borrowed, not copied: it is large, and a hidden copy would cost more than the selection.
py::array_t<float> matrix(const py::object& value) {
  if (!py::isinstance<py::array>(value)) {
    throw py::type_error(message("vectors is of type ",
                                 py::str(py::type::of(value).attr("__name__")).cast<std::string>(),
                                 "; pass a NumPy array: np.asarray(vectors, np.float32)"));
  }
  if (!py::isinstance<py::array_t<float>>(value)) {
    throw py::type_error(message("vectors has dtype ", py::str(value.attr("dtype")).cast<std::string>(),
                                 ", not float32; pass vectors.astype(np.float32)"));
  }
  auto array = py::reinterpret_borrow<py::array_t<float>>(value);
  if (array.ndim() != 2) throw py::value_error(message("vectors has ", array.ndim(), " dimensions, not 2"));
  constexpr int kLayout = int{py::array::c_style} | int{py::detail::npy_api::NPY_ARRAY_ALIGNED_};
  if ((array.flags() & kLayout) != kLayout) {
    throw py::value_error(
        "vectors is not C-contiguous and aligned; pass np.require(vectors, requirements=\"CA\")");
  }
  return array;
}

// Shared ownership: the list that Python gave may change while the GIL is released.
using QuotaArgument = std::optional<std::vector<std::shared_ptr<Quota>>>;

Quotas quotas_of(const QuotaArgument& argument) {
  Quotas quotas;
  for (std::size_t q = 0; argument && q < argument->size(); ++q) {
    if ((*argument)[q] == nullptr)
      throw py::type_error(message("quotas[", q, "] is None; give Quota objects"));
    quotas.push_back((*argument)[q]);
  }
  return quotas;
}

std::size_t places_of(std::int64_t k) {
  if (k < 0) throw py::value_error(message("k is ", k, "; it must be at least 0"));
  return static_cast<std::size_t>(k);
}

constexpr std::size_t kLongSelection = 1 << 20;  // multiplications at most; fewer take some 50 microseconds

struct Inputs {
  Inputs(const py::object& relevance_argument, const py::object& vectors_argument,
         const py::object& rows_argument)
      : relevance(input_vector<float>(relevance_argument, "relevance")),
        vectors(matrix(vectors_argument)),
        size(relevance.span().size()),
        dim(static_cast<std::size_t>(vectors.shape(1))) {
    if (!rows_argument.is_none()) {
      rows = input_vector<std::int32_t>(rows_argument, "rows");
      check_rows();
    } else if (static_cast<std::size_t>(vectors.shape(0)) != size) {
      throw py::value_error(message("vectors has ", vectors.shape(0), " rows, but relevance has ", size,
                                    " values; both must be parallel"));
    }
  }

  const std::int32_t* row_of() const { return rows ? rows->span().data() : nullptr; }

  bool is_long(std::size_t places) const { return size * std::min(places, size) * dim >= kLongSelection; }

  InputVector<float> relevance;
  py::array_t<float> vectors;
  std::optional<InputVector<std::int32_t>> rows;
  std::size_t size;
  std::size_t dim;

 private:
  void check_rows() const {
    if (rows->span().size() != size) {
      throw py::value_error(message("rows has ", rows->span().size(), " values, but relevance has ", size,
                                    "; both must be parallel"));
    }
    for (const std::int32_t row : rows->span()) {
      if (row < 0 || row >= vectors.shape(0)) {
        throw py::index_error(message("row ", row, " is outside of 0..", vectors.shape(0), " vectors"));
      }
    }
  }
};

RelevanceScale scale_of(const std::string& normalize) {
  if (normalize == "minmax") return RelevanceScale::kMinMax;
  if (normalize == "none") return RelevanceScale::kNone;
  throw py::value_error(message("normalize is \"", normalize, "\"; it must be \"minmax\" or \"none\""));
}

BoundSelection mmr(const py::object& relevance, const py::object& vectors, std::int64_t k, double trade_off,
                   const std::string& normalize, const QuotaArgument& quotas, const py::object& row_numbers) {
  const Inputs inputs(relevance, vectors, row_numbers);
  const Quotas rules = quotas_of(quotas);
  const std::size_t places = places_of(k);
  const RelevanceScale scale = scale_of(normalize);
  Selection selection;
  {
    const ReleaseIfLong released(inputs.is_long(places) ? 1 : 0, 1);
    selection = select_mmr(inputs.relevance.span().data(), inputs.vectors.data(), inputs.size, inputs.dim,
                           places, trade_off, scale, rules, inputs.row_of());
  }
  return BoundSelection(std::move(selection));
}

BoundSelection dpp(const py::object& relevance, const py::object& vectors, std::int64_t k, double trade_off,
                   const QuotaArgument& quotas, const py::object& row_numbers) {
  const Inputs inputs(relevance, vectors, row_numbers);
  const Quotas rules = quotas_of(quotas);
  const std::size_t places = places_of(k);
  Selection selection;
  {
    const ReleaseIfLong released(inputs.is_long(places) ? 1 : 0, 1);
    selection = select_dpp(inputs.relevance.span().data(), inputs.vectors.data(), inputs.size, inputs.dim,
                           places, trade_off, rules, inputs.row_of());
  }
  return BoundSelection(std::move(selection));
}

BoundSelection by_relevance(const py::object& relevance, std::int64_t k, const QuotaArgument& quotas) {
  const auto values = input_vector<float>(relevance, "relevance");
  const Quotas rules = quotas_of(quotas);
  const std::size_t places = places_of(k);
  Selection selection;
  {
    const ReleaseGil released;
    selection = select_by_relevance(values.span().data(), values.span().size(), places, rules);
  }
  return BoundSelection(std::move(selection));
}

std::size_t touch_rows(const py::object& vectors, const py::object& row_numbers, double seconds) {
  const py::array_t<float> values = matrix(vectors);
  const auto rows = input_vector<std::int32_t>(row_numbers, "rows");
  const auto count = static_cast<std::int64_t>(values.shape(0));
  const auto bytes = static_cast<std::size_t>(values.shape(1)) * sizeof(float);
  const auto* const begin = reinterpret_cast<const std::byte*>(values.data());
  Touch memory(seconds);
  const ReleaseGil released;
  std::size_t touched = 0;
  for (const std::int32_t row : rows.span()) {
    const bool exists = row >= 0 && row < count;  // whoever wants another will say so
    if (!memory.has_time()) break;
    if (exists && !memory.read({begin + static_cast<std::size_t>(row) * bytes, bytes}, bytes)) break;
    ++touched;
  }
  return touched;
}

std::shared_ptr<Quota> make_quota(const py::object& groups, std::int64_t limit, std::int64_t window) {
  const auto values = input_vector<std::int32_t>(groups, "groups");
  return std::make_shared<Quota>(values.span().data(), values.span().size(), limit, window);
}

void register_types(py::module_& m) {
  py::class_<Quota, std::shared_ptr<Quota>>(m, "Quota",
                                            R"(A limit on how often one group may appear in a list.

At most ``limit`` candidates of one group stand in any ``window`` consecutive places; ``window=0`` means the
whole list. Immutable: any number of threads may share one, and it may serve several selections.

Args:
    groups: int32 ``(n,)``: the group of each candidate (a brand, a seller), -1 for none.
        Candidates without a group are never held back. The values are copied.
    limit: at least 1.
    window: places, at least 0.

Raises:
    TypeError: ``groups`` is not an int32 array.
    ValueError: a group below -1, a limit below 1, a window below 0, or a wrong shape.)")
      .def(py::init(&make_quota), py::arg("groups"), py::kw_only(), py::arg("limit"), py::arg("window"))
      .def_property_readonly("limit", &Quota::limit, "Most items of one group in a window.")
      .def_property_readonly("window", &Quota::window, "Consecutive places; 0 is the whole list.")
      .def("__len__", &Quota::size, "Number of candidates.")
      .def("__repr__", [](const Quota& quota) {
        return message("Quota(", quota.size(), " candidates in ", quota.group_count(),
                       " groups, limit=", quota.limit(), ", window=", quota.window(), ")");
      });

  py::class_<BoundSelection>(m, "Selection",
                             R"(Candidates in the order of their places. Made by mmr, dpp, by_relevance.

The arrays are the caller's own; threads that share a Selection must not write to them.)")
      .def_property_readonly("order", &BoundSelection::order,
                             "int32 ``(m,)``: the candidate of each place, each at most once.")
      .def_property_readonly("gains", &BoundSelection::gains,
                             "float32 ``(m,)``: the value of what was maximised, when that place was filled.")
      .def_property_readonly("relaxed", &BoundSelection::relaxed,
                             "bool ``(m,)``: True where every candidate left would have broken a quota.")
      .def_property_readonly("count_relaxed", &BoundSelection::count_relaxed,
                             "Places where ``relaxed`` is True.")
      .def_property_readonly("count_changed", &BoundSelection::count_changed,
                             "Places whose candidate has another number than the place, from 0.")
      .def("__len__", &BoundSelection::size)
      .def("__repr__", [](const BoundSelection& selection) {
        return message("Selection(", selection.size(), " places, ", selection.count_relaxed(), " relaxed)");
      });
}

}  // namespace

void register_diversity(py::module_& m) {
  register_types(m);

  m.def("mmr", &mmr, R"(Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998), greedily.

Every place goes to the candidate ``i`` of the largest
``trade_off * r_i - (1 - trade_off) * max_j max(0, cos(v_i, v_j))`` over the candidates ``j`` placed before (0 for
the first place), the first of equals. ``r`` is the relevance, with ``normalize="minmax"`` scaled to [0, 1] over
the candidates (all 0 where they are equal), with ``"none"`` as given.

Vectors need no normalisation. One without a direction (all zeros, or holding a NaN or an infinity) is similar to
nothing and competes by relevance alone; any other finite vector counts, however large or small.

Args:
    relevance: float32 ``(n,)``, finite, larger is better.
    vectors: float32 ``(n, d)``, C-contiguous.
    k: places to fill; ``min(k, n)`` are filled.
    trade_off: 1 is relevance alone, 0 diversity alone.
    normalize: ``"minmax"`` or ``"none"``.
    quotas: each about the same ``n`` candidates. Where no candidate left is eligible, those that exceed the
        quotas by the fewest items compete for the place, and ``relaxed`` is True there.
    rows: int32 ``(n,)``: ``vectors`` is then float32 ``(any, d)``, such as those of all documents, of which
        candidate ``i`` has row ``rows[i]``; only rows that come into question are read.

Returns:
    Selection: ``gains`` are the values of the formula.

Raises:
    TypeError: not an array, or another dtype.
    ValueError: a relevance that is not finite, an argument out of range, shapes that do not agree, or vectors
        that are not C-contiguous.
    IndexError: one of ``rows`` outside of ``vectors``.

Any number of threads may call it; the GIL is released where the work may be long. The arrays must not be
written to meanwhile.)",
        py::arg("relevance"), py::arg("vectors"), py::kw_only(), py::arg("k"), py::arg("trade_off") = 0.7,
        py::arg("normalize") = "minmax", py::arg("quotas") = py::none(), py::arg("rows") = py::none());

  m.def("dpp", &dpp, R"(Most probable set of a determinantal point process, greedily.

Fast greedy MAP by an incremental Cholesky factorisation (Chen, Zhang and Zhou, NeurIPS 2018, arXiv 1709.05135).
The kernel is ``L = diag(q) S diag(q)`` with ``S_ij = cos(v_i, v_j)`` and ``q_i = exp(a z_i)``, where ``z`` is the
relevance standardised over the candidates (population deviation; all 0 where they are equal) and
``a = trade_off / (2 (1 - trade_off))``. Every place goes to the candidate of the largest
``trade_off * z_i + (1 - trade_off) * log max(d_i^2, 1e-4)``, the first of equals; ``d_i^2`` is the squared part of
the unit vector ``v_i`` outside the span of those placed before. That is the gain in ``log det L`` times
``1 - trade_off``, with a floor: once the placed candidates span all that is left, relevance decides.

Args:
    relevance: float32 ``(n,)``, finite, larger is better; only its standardised form matters.
    vectors: float32 ``(n, d)``, C-contiguous; not normalised, as for :func:`mmr` (one without a direction has
        similarity 0 with all others).
    k: places to fill; ``min(k, n)`` are filled.
    trade_off: 1 is relevance alone, 0 diversity alone.
    quotas, rows: as for :func:`mmr`.

Returns:
    Selection: ``gains`` are the values of the formula.

Raises:
    TypeError, ValueError, IndexError: as :func:`mmr`.

Threads and the GIL: as :func:`mmr`.)",
        py::arg("relevance"), py::arg("vectors"), py::kw_only(), py::arg("k"), py::arg("trade_off") = 0.7,
        py::arg("quotas") = py::none(), py::arg("rows") = py::none());

  m.def("by_relevance", &by_relevance,
        R"(The most relevant candidates first, under quotas; equals in their given order.

Args:
    relevance: float32 ``(n,)``, finite, larger is better.
    k: places to fill; ``min(k, n)`` are filled.
    quotas: as for :func:`mmr`.

Returns:
    Selection: ``gains`` are the relevance.

Raises:
    TypeError, ValueError: as :func:`mmr`.

Any number of threads may call it; the GIL is released. The array must not be written to meanwhile.)",
        py::arg("relevance"), py::kw_only(), py::arg("k"), py::arg("quotas") = py::none());

  m.def(
      "touch_rows", &touch_rows, py::arg("vectors"), py::arg("rows"), py::kw_only(),
      py::arg("seconds") = Touch::kSeconds,
      R"(Read `rows`, int32 (n,), of `vectors`, float32 (any, d), so that they are in the processor's caches.

Returns how many were read. It ends after 1 MiB and after `seconds` (0 to 1), or the one page fault in which they pass.
Rows that do not exist are passed over. Raises TypeError, ValueError as mmr. Threads: any; the GIL is released.)");
}

}  // namespace searchpipe::bindings
