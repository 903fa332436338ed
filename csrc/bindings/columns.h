#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "bindings/arrays.h"

// What the bindings of one query's candidates share: some hundreds of numbers go in and out, so that what
// pybind11 does around an array would cost more than the work on it. Call with the GIL held.
namespace searchpipe::bindings {

// What input_vector() takes, seen without a reference to it: the caller keeps `object`.
template <class T>
class VectorView {
 public:
  // `name` is called if there is something to be refused: it returns what the array is called.
  template <class Name>
  VectorView(pybind11::handle object, const Name& name) {
    namespace py = pybind11;
    using py::detail::npy_api;
    constexpr int kLayout = int{py::array::c_style} | int{npy_api::NPY_ARRAY_ALIGNED_};
    if (npy_api::get().PyArray_Check_(object.ptr())) {
      const auto* const array = py::detail::array_proxy(object.ptr());
      if (array->nd == 1 && (array->flags & kLayout) == kLayout && array->descr == py::dtype::of<T>().ptr()) {
        span_ = {reinterpret_cast<const T*>(array->data), static_cast<std::size_t>(array->dimensions[0])};
        return;
      }
    }
    copy_ = input_vector<T>(object, std::string(name()));  // says what is wrong, if it is not the layout
    span_ = copy_->span();
  }

  std::span<const T> span() const { return span_; }
  std::size_t size() const { return span_.size(); }

 private:
  std::span<const T> span_;
  std::optional<InputVector<T>> copy_;
};

// A new 1-D array to be filled, and where.
template <class T>
struct NewVector {
  explicit NewVector(std::size_t size) {
    namespace py = pybind11;
    auto& api = py::detail::npy_api::get();
    const auto length = static_cast<Py_intptr_t>(size);
    array = py::reinterpret_steal<py::object>(api.PyArray_NewFromDescr_(
        api.PyArray_Type_, py::dtype::of<T>().release().ptr(), 1, &length, nullptr, nullptr, 0, nullptr));
    if (!array) throw py::error_already_set();
    out = {reinterpret_cast<T*>(py::detail::array_proxy(array.ptr())->data), size};
  }

  pybind11::object array;
  std::span<T> out;
};

// A new array of these values.
template <class T>
pybind11::object copied(std::span<const T> values) {
  NewVector<T> made(values.size());
  std::copy(values.begin(), values.end(), made.out.begin());
  return std::move(made.array);
}

// The values at `rows`, which are all within.
template <class T>
pybind11::object gathered(std::span<const T> values, std::span<const std::int32_t> rows) {
  NewVector<T> made(rows.size());
  const T* const from = values.data();
  std::transform(rows.begin(), rows.end(), made.out.begin(),
                 [from](std::int32_t row) { return from[static_cast<std::size_t>(row)]; });
  return std::move(made.array);
}

inline void set_item(const pybind11::dict& dict, pybind11::handle key, pybind11::handle value) {
  if (PyDict_SetItem(dict.ptr(), key.ptr(), value.ptr()) != 0) throw pybind11::error_already_set();
}

}  // namespace searchpipe::bindings
