#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "bindings/module.h"
#include "core/message.h"

namespace py = pybind11;

namespace searchpipe::bindings {
namespace {

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
  m.def(
      "slotted", &slotted, py::arg("cls"), py::arg("rows"),
      R"([cls(*row) for row in rows] for a dataclass with slots and without __post_init__, at a tenth of the cost.

A frozen one sets every field by a call from Python otherwise. Raises TypeError for another class, or a row that is
no tuple of as many values as the class has fields. Threads: any; the GIL is held.)");
}

}  // namespace searchpipe::bindings
