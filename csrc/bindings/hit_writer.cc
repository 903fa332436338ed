#include <pybind11/pybind11.h>
#include <structmember.h>  // PyMemberDef, before Python 3.12

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/module.h"
#include "core/message.h"
#include "core/reasons.h"

namespace py = pybind11;

namespace searchpipe::bindings {
namespace {

constexpr std::array kFields = {"rank", "id", "score", "scores", "fields", "reasons"};

// Where a slotted dataclass keeps the fields of a hit.
std::array<Py_ssize_t, kFields.size()> slots_of(const py::type& hit) {
  std::array<Py_ssize_t, kFields.size()> slots;
  const py::tuple names = py::getattr(hit, "__match_args__", py::tuple());
  if (!names.equal(py::make_tuple(kFields[0], kFields[1], kFields[2], kFields[3], kFields[4], kFields[5]))) {
    throw py::type_error(message("a hit has the fields rank, id, score, scores, fields, reasons, not ",
                                 py::str(names).cast<std::string>()));
  }
  for (std::size_t i = 0; i < slots.size(); ++i) {
    const py::object member = py::getattr(hit, kFields[i], py::none());
    if (Py_TYPE(member.ptr()) != &PyMemberDescr_Type) {
      throw py::type_error(message(kFields[i], " is no slot of ",
                                   py::str(hit.attr("__name__")).cast<std::string>(),
                                   "; give a dataclass with slots=True"));
    }
    slots[i] = reinterpret_cast<PyMemberDescrObject*>(member.ptr())->d_member->offset;
  }
  return slots;
}

// By `value == value`, whatever it is: a stage of the user's own keeps anything.
bool is_nan(const py::handle& value) {
  const auto same = py::reinterpret_steal<py::object>(PyObject_RichCompare(value.ptr(), value.ptr(), Py_EQ));
  const int equal = same ? PyObject_IsTrue(same.ptr()) : -1;
  if (equal < 0) throw py::error_already_set();
  return equal == 0;
}

// Adds each row's value of a column, unless it is NaN.
void add_scores(const py::handle& name, const py::handle& column, const std::vector<py::object>& rows) {
  if (py::len(column) < rows.size()) {
    throw py::value_error(message("scores[", py::str(name).cast<std::string>(), "] has ", py::len(column),
                                  " values; ", rows.size(), " rows are wanted"));
  }
  const auto set = [&](std::size_t row, const py::object& value) {
    if (PyDict_SetItem(rows[row].ptr(), name.ptr(), value.ptr()) != 0) throw py::error_already_set();
  };
  if (py::isinstance<py::array_t<float>>(column)) {
    const auto values = input_vector<float>(column, "column");
    for (std::size_t row = 0; row < rows.size(); ++row) {
      const float value = values.span()[row];
      if (!std::isnan(value)) set(row, py::float_(value));
    }
    return;
  }
  const auto size = static_cast<py::ssize_t>(rows.size());
  const py::list values = column[py::slice(0, size, 1)].attr("tolist")();
  for (std::size_t row = 0; row < rows.size(); ++row) {
    const py::object value = values[row];
    if (!is_nan(value)) set(row, value);
  }
}

// One value a hit, from any iterable.
py::object values_of(const py::object& given, std::size_t count, const char* what) {
  const auto values = py::reinterpret_steal<py::object>(PySequence_Fast(given.ptr(), what));
  if (!values) throw py::error_already_set();
  const Py_ssize_t size = PySequence_Fast_GET_SIZE(values.ptr());
  if (static_cast<std::size_t>(size) != count) {
    throw py::value_error(message(what, ": ", size, " values for ", count, " documents"));
  }
  return values;
}

// Makes the hits of pages. Immutable.
class HitWriter {
 public:
  HitWriter(const py::type& hit, const py::sequence& ranked, const py::sequence& sources,
            const py::object& fused, const py::sequence& final)
      : hit_(hit), slots_(slots_of(hit)), final_(final.begin(), final.end()) {
    for (const py::handle name : ranked) {
      const OrderKind kind = sources.contains(name) ? OrderKind::kSource
                             : fused.equal(name)    ? OrderKind::kFused
                                                    : OrderKind::kStage;
      ranked_.push_back({py::reinterpret_borrow<py::object>(name), name.cast<std::string>(), kind});
    }
  }

  py::list write(const py::object& docs, const py::object& ids, const py::object& fields,
                 const py::dict& scores, const py::dict& orders, const py::dict& moved) const {
    const auto wanted = input_vector<std::int32_t>(docs, "docs");
    const std::size_t count = wanted.span().size();
    const py::object id_of = values_of(ids, count, "ids");
    const py::object fields_of = values_of(fields, count, "fields");
    std::vector<py::object> rows(count);
    for (py::object& row : rows) row = py::dict();
    for (const auto& [name, column] : scores) {
      // Owned: what a stage of the user's own keeps may run anything.
      add_scores(py::reinterpret_borrow<py::object>(name), py::reinterpret_borrow<py::object>(column), rows);
    }
    std::vector<InputVector<std::int32_t>> arrays;  // kept while they are looked into
    PlaceReasons reasons(wanted.span(), orders_of(orders, arrays));
    py::list hits(count);
    std::vector<py::object> said;
    for (std::size_t row = 0; row < count; ++row) {
      said.clear();
      tell(reasons, row, moved, wanted.span()[row], said);
      const auto at = static_cast<Py_ssize_t>(row);
      const auto held = [&](const py::object& values) {
        return py::reinterpret_borrow<py::object>(PySequence_Fast_GET_ITEM(values.ptr(), at));
      };
      PyList_SET_ITEM(hits.ptr(), at,
                      filled({py::int_(row + 1), held(id_of), final_of(rows[row]), rows[row], held(fields_of),
                              tuple_of(said)}));
    }
    return hits;
  }

 private:
  struct Ranked {
    py::object name;
    std::string text;
    OrderKind kind;
  };

  // Those of `orders` that put documents into places, in the order in which stages make them.
  std::vector<NamedOrder> orders_of(const py::dict& orders,
                                    std::vector<InputVector<std::int32_t>>& arrays) const {
    std::vector<NamedOrder> named;
    named.reserve(ranked_.size());
    arrays.reserve(ranked_.size());
    for (const Ranked& ranked : ranked_) {
      PyObject* const order = PyDict_GetItemWithError(orders.ptr(), ranked.name.ptr());
      if (order == nullptr && PyErr_Occurred() != nullptr) throw py::error_already_set();
      if (order == nullptr || order == Py_None) continue;
      arrays.push_back(input_vector<std::int32_t>(order, "orders[" + ranked.text + "]"));
      if (!arrays.back().span().empty()) named.push_back({ranked.text, ranked.kind, arrays.back().span()});
    }
    return named;
  }

  py::object final_of(const py::object& scores) const {
    for (const py::object& name : final_) {
      PyObject* const score = PyDict_GetItemWithError(scores.ptr(), name.ptr());
      if (score != nullptr) return py::reinterpret_borrow<py::object>(score);
      if (PyErr_Occurred() != nullptr) throw py::error_already_set();
    }
    return py::float_(0.0);
  }

  PyObject* filled(std::array<py::object, kFields.size()> values) const {
    auto* const type = reinterpret_cast<PyTypeObject*>(hit_.ptr());
    PyObject* const hit = type->tp_alloc(type, 0);
    if (hit == nullptr) throw py::error_already_set();
    for (std::size_t i = 0; i < values.size(); ++i) {
      // The slot is empty: nothing is replaced.
      *reinterpret_cast<PyObject**>(reinterpret_cast<char*>(hit) + slots_[i]) = values[i].release().ptr();
    }
    return hit;
  }

  static py::tuple tuple_of(std::vector<py::object>& values) {
    py::tuple made(values.size());
    for (std::size_t i = 0; i < values.size(); ++i) {
      PyTuple_SET_ITEM(made.ptr(), static_cast<Py_ssize_t>(i), values[i].release().ptr());
    }
    return made;
  }

  static void tell(PlaceReasons& reasons, std::size_t row, const py::dict& moved, std::int32_t doc,
                   std::vector<py::object>& said) {
    reasons.tell(row, [&](std::string_view text) {
      auto object = py::reinterpret_steal<py::object>(
          PyUnicode_FromStringAndSize(text.data(), static_cast<Py_ssize_t>(text.size())));
      if (!object) throw py::error_already_set();
      said.push_back(std::move(object));
    });
    if (moved.empty()) return;
    PyObject* const why = PyDict_GetItemWithError(moved.ptr(), py::int_(doc).ptr());
    if (why == nullptr && PyErr_Occurred() != nullptr) throw py::error_already_set();
    const int more = why == nullptr ? 0 : PyObject_IsTrue(why);
    if (more < 0) throw py::error_already_set();
    if (more > 0) said.push_back(py::reinterpret_borrow<py::object>(why));
  }

  py::type hit_;
  std::array<Py_ssize_t, kFields.size()> slots_;
  std::vector<py::object> final_;
  std::vector<Ranked> ranked_;
};

}  // namespace

void register_hit_writer(py::module_& m) {
  py::class_<HitWriter>(m, "HitWriter", R"(Makes the hits of pages. Immutable: any thread; the GIL is held.

Args:
    hit: a dataclass with slots and without __post_init__, whose fields are rank, id, score, scores, fields, reasons.
    ranked: names of orders that put documents into places, as sources and stages make them one after another.
    sources, fused: those of them that recall documents, and the one that merges what they found.
    final: names of scores; the first that a document has is the score of its hit, 0 if it has none.

Raises:
    TypeError: another class.)")
      .def(py::init<const py::type&, const py::sequence&, const py::sequence&, const py::object&,
                    const py::sequence&>(),
           py::arg("hit"), py::kw_only(), py::arg("ranked"), py::arg("sources"), py::arg("fused"),
           py::arg("final"))
      .def("write", &HitWriter::write, py::arg("docs"), py::arg("ids"), py::arg("fields"), py::arg("scores"),
           py::arg("orders"), py::arg("moved"),
           R"(The hits of `docs`, int32 (n,), ranked from 1.

ids, fields: one a hit. scores: name -> (m,), m >= n, float32 or any NumPy array; hits get those that are not NaN, as
Python numbers. orders: name -> int32 (m,) documents, best first, or None. Sources say "NAME rank 3" or "not found by
NAME recall", the fused order "NAME rank 3", all others "NAME moved it up 2" against the last order before that has
the document, or nothing if they left it there. moved: document -> one reason more, at the end.

Raises TypeError, ValueError for other arrays or lengths.)");
}

}  // namespace searchpipe::bindings
