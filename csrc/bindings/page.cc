#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
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

// The members of a slotted dataclass, in the order of its arguments.
std::vector<py::object> members_of(const py::type& cls) {
  std::vector<py::object> members;
  for (const py::handle name : cls.attr("__match_args__")) {
    members.push_back(py::getattr(cls, name));
    if (Py_TYPE(members.back().ptr()) != &PyMemberDescr_Type) {
      throw py::type_error(message(py::str(name).cast<std::string>(), " is no slot of ",
                                   py::str(cls.attr("__name__")).cast<std::string>(),
                                   "; give a dataclass with slots=True"));
    }
  }
  return members;
}

py::list slotted(const py::type& cls, const py::iterable& rows) {
  const std::vector<py::object> members = members_of(cls);
  auto* const type = reinterpret_cast<PyTypeObject*>(cls.ptr());
  py::list made;
  for (const py::handle row : rows) {
    const auto values = py::reinterpret_borrow<py::tuple>(row);
    if (!PyTuple_Check(row.ptr()) || values.size() != members.size()) {
      throw py::type_error(message("a row is no tuple of ", members.size(), " values"));
    }
    const auto object = py::reinterpret_steal<py::object>(type->tp_alloc(type, 0));
    if (!object) throw py::error_already_set();
    for (std::size_t i = 0; i < members.size(); ++i) {
      PyObject* const member = members[i].ptr();
      if (Py_TYPE(member)->tp_descr_set(member, object.ptr(), PyTuple_GET_ITEM(row.ptr(), i)) != 0) {
        throw py::error_already_set();
      }
    }
    made.append(object);
  }
  return made;
}

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
}

}  // namespace searchpipe::bindings
