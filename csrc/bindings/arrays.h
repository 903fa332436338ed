#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "bindings/gil.h"

// What bindings share to take NumPy arrays in and hand them out. Call with the GIL held; the spans stay valid
// without it for as long as their array object is kept.
namespace searchpipe::bindings {

template <class T>
std::string dtype_name() {
  return pybind11::str(pybind11::dtype::of<T>());
}

template <class T>
struct InputVector {
  Kept<pybind11::array_t<T, pybind11::array::c_style>> array;

  std::span<const T> span() const { return {array.data(), static_cast<std::size_t>(array.size())}; }
};

// A 1-D array of exactly this dtype; one with strides is copied. TypeError or ValueError names the cure.
template <class T>
InputVector<T> input_vector(pybind11::handle object, const std::string& name) {
  namespace py = pybind11;
  if (!py::isinstance<py::array>(object)) {
    throw py::type_error(name + " is of type " +
                         std::string(py::str(py::type::handle_of(object).attr("__name__"))) +
                         "; pass a NumPy array: np.asarray(" + name + ", np." + dtype_name<T>() + ")");
  }
  if (!py::isinstance<py::array_t<T>>(object)) {
    const std::string wanted = dtype_name<T>();
    throw py::type_error(name + " has dtype " + std::string(py::str(object.attr("dtype"))) + ", not " +
                         wanted + "; pass " + name + ".astype(np." + wanted + ")");
  }
  const auto array = py::reinterpret_borrow<py::array>(object);
  if (array.ndim() != 1) {
    throw py::value_error(name + " has " + std::to_string(array.ndim()) + " dimensions, not 1; pass " + name +
                          ".ravel() or one row of it");
  }
  constexpr int kLayout = int{py::array::c_style} | int{py::detail::npy_api::NPY_ARRAY_ALIGNED_};
  if ((array.flags() & kLayout) == kLayout) {
    return {py::reinterpret_borrow<py::array_t<T, py::array::c_style>>(object)};
  }
  auto contiguous = py::array_t<T, py::array::c_style>::ensure(array);
  if (!contiguous) throw py::error_already_set();
  return {std::move(contiguous)};
}

// A new 1-D array to be filled.
template <class T>
pybind11::array_t<T> new_array(std::size_t size) {
  return pybind11::array_t<T>(static_cast<pybind11::ssize_t>(size));
}

// Moves a vector into a 1-D array without a copy.
template <class T>
pybind11::array_t<T> to_array(std::vector<T>&& values) {
  namespace py = pybind11;
  auto* const owner = new std::vector<T>(std::move(values));
  const py::capsule release(owner, [](void* data) { delete static_cast<std::vector<T>*>(data); });
  return py::array_t<T>(static_cast<py::ssize_t>(owner->size()), owner->data(), release);
}

}  // namespace searchpipe::bindings
