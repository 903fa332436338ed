#include <pybind11/stl.h>
#include <structmember.h>  // PyMemberDef, before Python 3.12

#include <array>
#include <iterator>
#include <string>
#include <vector>

#include "bindings/module.h"
#include "core/message.h"

namespace py = pybind11;

namespace searchpipe::bindings {
namespace {

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
  m.def(
      "slotted", &slotted, py::arg("cls"), py::arg("rows"),
      R"([cls(*row) for row in rows] for a dataclass with slots and without __post_init__, at a tenth of the cost.

A frozen one sets every field by a call from Python otherwise. Raises TypeError for another class, or a row that is
no tuple of as many values as the class has fields. Threads: any; the GIL is held.)");

  m.attr("made") =
      py::reinterpret_steal<py::object>(PyCFunction_NewEx(&made_method, nullptr, m.attr("__name__").ptr()));
}

}  // namespace searchpipe::bindings
