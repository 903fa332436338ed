#include <pybind11/stl.h>
#include <structmember.h>  // PyMemberDef, before Python 3.12

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <string>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/module.h"
#include "core/message.h"
#include "core/reasons.h"

namespace py = pybind11;

namespace searchpipe::bindings {
namespace {

py::list reasons(const py::object& docs, const py::dict& orders, const std::vector<std::string>& sources,
                 const std::string& fused) {
  const auto wanted = input_vector<std::int32_t>(docs, "docs");
  std::vector<InputVector<std::int32_t>> arrays;  // kept while they are looked into
  std::vector<NamedOrder> named;
  for (const auto& [key, value] : orders) {
    auto name = key.cast<std::string>();
    arrays.push_back(input_vector<std::int32_t>(value, "orders[" + name + "]"));
    const bool source = std::find(sources.begin(), sources.end(), name) != sources.end();
    const OrderKind kind = source          ? OrderKind::kSource
                           : name == fused ? OrderKind::kFused
                                           : OrderKind::kStage;
    named.push_back({std::move(name), kind, arrays.back().span()});
  }
  py::list rows;
  for (const std::vector<std::string>& said : place_reasons(wanted.span(), named)) {
    py::tuple row(said.size());
    for (std::size_t i = 0; i < said.size(); ++i) row[i] = py::str(said[i]);
    rows.append(std::move(row));
  }
  return rows;
}

// By `value == value`, whatever it is: a stage of the user's own keeps anything.
bool is_nan(const py::handle& value) {
  const auto same = py::reinterpret_steal<py::object>(PyObject_RichCompare(value.ptr(), value.ptr(), Py_EQ));
  const int equal = same ? PyObject_IsTrue(same.ptr()) : -1;
  if (equal < 0) throw py::error_already_set();
  return equal == 0;
}

py::list score_rows(const py::dict& columns, py::ssize_t rows) {
  py::list found;
  for (py::ssize_t row = 0; row < rows; ++row) found.append(py::dict());
  for (const auto& [name, column] : columns) {
    if (py::len(column) < static_cast<std::size_t>(rows)) {
      throw py::value_error(message("columns[", py::str(name).cast<std::string>(), "] has ", py::len(column),
                                    " values; ", rows, " rows are wanted"));
    }
    if (py::isinstance<py::array_t<float>>(column)) {
      const auto values = input_vector<float>(column, "column");
      for (py::ssize_t row = 0; row < rows; ++row) {
        const float value = values.span()[static_cast<std::size_t>(row)];
        if (!std::isnan(value)) found[static_cast<std::size_t>(row)][name] = py::float_(value);
      }
      continue;
    }
    const py::list values = column[py::slice(0, rows, 1)].attr("tolist")();
    for (py::ssize_t row = 0; row < rows; ++row) {
      const py::object value = values[static_cast<std::size_t>(row)];
      if (!is_nan(value)) found[static_cast<std::size_t>(row)][name] = value;
    }
  }
  return found;
}

// Where a slotted dataclass keeps its fields, in the order of its arguments.
std::vector<Py_ssize_t> offsets_of(const py::handle& cls) {
  std::vector<Py_ssize_t> offsets;
  for (const py::handle name : cls.attr("__match_args__")) {
    const py::object member = py::getattr(cls, name);
    if (Py_TYPE(member.ptr()) != &PyMemberDescr_Type) {
      throw py::type_error(message(py::str(name).cast<std::string>(), " is no slot of ",
                                   py::str(cls.attr("__name__")).cast<std::string>(),
                                   "; give a dataclass with slots=True"));
    }
    offsets.push_back(reinterpret_cast<PyMemberDescrObject*>(member.ptr())->d_member->offset);
  }
  return offsets;
}

// An object whose slots hold `values`, as many as there are offsets; null with an error set if there is no
// memory.
PyObject* filled(PyTypeObject* type, const std::vector<Py_ssize_t>& offsets, PyObject* const* values) {
  PyObject* const object = type->tp_alloc(type, 0);
  if (object == nullptr) return nullptr;
  for (std::size_t i = 0; i < offsets.size(); ++i) {
    Py_INCREF(values[i]);  // the slot is empty: nothing is replaced
    *reinterpret_cast<PyObject**>(reinterpret_cast<char*>(object) + offsets[i]) = values[i];
  }
  return object;
}

py::list slotted(const py::type& cls, const py::iterable& rows) {
  const std::vector<Py_ssize_t> offsets = offsets_of(cls);
  auto* const type = reinterpret_cast<PyTypeObject*>(cls.ptr());
  py::list made;
  for (const py::handle row : rows) {
    if (!PyTuple_Check(row.ptr()) || PyTuple_GET_SIZE(row.ptr()) != std::ssize(offsets)) {
      throw py::type_error(message("a row is no tuple of ", offsets.size(), " values"));
    }
    auto object = py::reinterpret_steal<py::object>(
        filled(type, offsets, reinterpret_cast<PyTupleObject*>(row.ptr())->ob_item));
    if (!object) throw py::error_already_set();
    made.append(std::move(object));
  }
  return made;
}

// A class and its offsets, for as long as the process lives: `made` is asked for the same few.
struct Layout {
  PyTypeObject* type = nullptr;
  std::vector<Py_ssize_t> offsets;
};
constexpr std::size_t kLayouts = 8;

const std::vector<Py_ssize_t>& layout_of(PyObject* cls, std::vector<Py_ssize_t>& own) {
  static std::array<Layout, kLayouts>* const known = new std::array<Layout, kLayouts>;  // guarded by the GIL
  auto* const type = reinterpret_cast<PyTypeObject*>(cls);
  for (Layout& one : *known) {
    if (one.type == type) return one.offsets;
    if (one.type != nullptr) continue;
    own = offsets_of(cls);  // may run Python, and so other threads: nothing is claimed before
    if (one.type != nullptr) return own;
    Py_INCREF(cls);
    one.offsets = own;
    one.type = type;
    return one.offsets;
  }
  own = offsets_of(cls);
  return own;
}

// Called for a query's own objects, where pybind11's argument handling would cost as much as the work.
PyObject* made(PyObject*, PyObject* const* args, Py_ssize_t count) {
  try {
    if (count < 1 || PyType_Check(args[0]) == 0) throw py::type_error("made() takes a class and its values");
    std::vector<Py_ssize_t> own;
    const std::vector<Py_ssize_t>& offsets = layout_of(args[0], own);
    if (count - 1 != std::ssize(offsets)) {
      throw py::type_error(message("made() got ", count - 1, " values for ", offsets.size(), " fields"));
    }
    return filled(reinterpret_cast<PyTypeObject*>(args[0]), offsets, args + 1);
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_TypeError, error.what());
  }
  return nullptr;
}

PyMethodDef made_method = {"made", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&made)),
                           METH_FASTCALL,
                           R"(made(cls, *values)
--

cls(*values) for a dataclass with slots and without __post_init__, every field given, at a fraction of the cost.

Raises TypeError as slotted(), or for another number of values. Threads: any; the GIL is held.)"};

}  // namespace

void register_page(py::module_& m) {
  m.def("place_reasons", &reasons, py::arg("docs"), py::arg("orders"), py::kw_only(), py::arg("sources"),
        py::arg("fused"),
        R"(Where each of `docs` stands in each order, in words: a list of tuples of str, parallel to `docs`.

docs: int32 (n,). orders: name -> int32 (m,) documents, best first, in the order in which they were made. Those
named in `sources` say "NAME rank 3" or "not found by NAME recall", the one named `fused` "NAME rank 3", all others
"NAME moved it up 2" against the last order before that has the document, or nothing if they left it there. Raises
TypeError, ValueError for other arrays. Threads: any; the GIL is held.)");

  m.def("score_rows", &score_rows, py::arg("columns"), py::kw_only(), py::arg("rows"),
        R"(The first `rows` of named columns as dicts of Python numbers, without those that are NaN.

columns: name -> (n,), n >= rows, float32 or any NumPy array. Raises ValueError for a shorter one. Threads: any; the
GIL is held.)");

  m.def(
      "slotted", &slotted, py::arg("cls"), py::arg("rows"),
      R"([cls(*row) for row in rows] for a dataclass with slots and without __post_init__, at a tenth of the cost.

A frozen one sets every field by a call from Python otherwise. Raises TypeError for another class, or a row that is
no tuple of as many values as the class has fields. Threads: any; the GIL is held.)");

  m.attr("made") =
      py::reinterpret_steal<py::object>(PyCFunction_NewEx(&made_method, nullptr, m.attr("__name__").ptr()));
}

}  // namespace searchpipe::bindings
