#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

namespace searchpipe::bindings {

// A Python callable that C++ threads may copy, call and drop without holding
// the GIL: it is taken for the call and for the last drop.
class GilFunction {
 public:
  explicit GilFunction(pybind11::function function)
      : function_(new pybind11::function(std::move(function)), [](pybind11::function* held) {
          if (!Py_IsInitialized()) return;  // the interpreter is gone: leaked, with everything else
          pybind11::gil_scoped_acquire acquire;
          delete held;
        }) {}

  // `make_arguments` builds the argument tuple under the GIL. A Python exception becomes
  // std::runtime_error("Type: text"), which needs no GIL to be carried on.
  template <class MakeArguments>
  void call(MakeArguments make_arguments) const {
    pybind11::gil_scoped_acquire acquire;
    try {
      (*function_)(*make_arguments());
    } catch (pybind11::error_already_set& error) {
      const std::string type = pybind11::str(error.type().attr("__name__"));
      const std::string text = pybind11::str(error.value());
      throw std::runtime_error(type + ": " + text);
    }
  }

 private:
  std::shared_ptr<pybind11::function> function_;
};

// Destroys with the GIL released: for objects that join threads which may want it, and for device memory,
// whose driver waits for all work on the device before it takes anything back.
template <class T>
struct ReleasingDelete {
  void operator()(T* object) const {
    pybind11::gil_scoped_release release;
    delete object;
  }
};

template <class T>
std::shared_ptr<T> releasing(std::unique_ptr<T> object) {
  // The last reference may fall on a thread without the GIL, which then has none to release.
  return std::shared_ptr<T>(object.release(), [](T* held) {
    if (PyGILState_Check() != 0) {
      ReleasingDelete<T>{}(held);
    } else {
      delete held;
    }
  });
}

}  // namespace searchpipe::bindings
