#include <pybind11/pybind11.h>

#include <string>
#include <utility>

#include "bindings/arrays.h"
#include "bindings/gil.h"
#include "bindings/module.h"
#include "core/blob_table.h"
#include "core/message.h"
#include "core/touch.h"

namespace py = pybind11;

namespace searchpipe::bindings {
namespace {

constexpr std::size_t kMostEach = 4096;  // bytes of one string that are read ahead

// Document numbers as a page has them (int32, read in place), or whatever else NumPy makes whole numbers of.
class Numbers {
 public:
  explicit Numbers(const py::object& given) {
    if (py::isinstance<py::array_t<std::int32_t>>(given)) {
      hold(narrow_, input_vector<std::int32_t>(given, "docs").array);
    } else {
      hold(wide_, py::array_t<std::int64_t, py::array::c_style | py::array::forcecast>(given));
    }
  }

  std::size_t size() const { return size_; }
  std::int64_t operator[](std::size_t i) const { return narrow_ != nullptr ? narrow_[i] : wide_[i]; }

 private:
  template <class T, class Array>
  void hold(const T*& values, Array array) {
    if (array.ndim() != 1) throw py::value_error(message("docs has ", array.ndim(), " dimensions, not 1"));
    values = array.data();
    size_ = static_cast<std::size_t>(array.size());
    owner_ = std::move(array);
  }

  py::object owner_;
  const std::int32_t* narrow_ = nullptr;
  const std::int64_t* wide_ = nullptr;
  std::size_t size_ = 0;
};

class BoundBlobs {
 public:
  BoundBlobs(const py::object& bytes, const py::object& ends)
      : bytes_(input_vector<std::uint8_t>(bytes, "data")),
        ends_(input_vector<std::int64_t>(ends, "ends")),
        table_(bytes_.span(), ends_.span()) {}

  std::int64_t size() const { return table_.size(); }

  py::bytes one(std::int64_t number) const {
    const auto found = table_.at(number);
    return {reinterpret_cast<const char*>(found.data()), found.size()};
  }

  py::list texts(const py::object& docs) const {
    const Numbers numbers(docs);
    py::list found(numbers.size());
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      const auto text = table_.at(numbers[i]);
      PyObject* const decoded = PyUnicode_DecodeUTF8(reinterpret_cast<const char*>(text.data()),
                                                     static_cast<Py_ssize_t>(text.size()), nullptr);
      if (decoded == nullptr) throw py::error_already_set();
      PyList_SET_ITEM(found.ptr(), static_cast<Py_ssize_t>(i), decoded);
    }
    return found;
  }

  py::bytes json_list(const py::object& docs) const {
    const Numbers numbers(docs);
    std::string joined(1, '[');
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      if (i > 0) joined += ',';
      const auto item = table_.at(numbers[i]);
      joined.append(reinterpret_cast<const char*>(item.data()), item.size());
    }
    joined += ']';
    return joined;
  }

  std::size_t touch(const py::object& docs, double seconds) const {
    const Numbers numbers(docs);
    Touch memory(seconds);
    const ReleaseGil released;
    std::size_t row = 0;
    for (; row < numbers.size() && memory.has_time(); ++row) {
      const std::int64_t number = numbers[row];
      if (number < 0 || number >= size()) continue;  // whoever wants it will say so
      const auto ends = ends_.span().subspan(static_cast<std::size_t>(number), 2);
      if (!memory.read(std::as_bytes(ends), kMostEach)) break;
      if (ends[0] < 0 || ends[1] < ends[0] || ends[1] > ends_.span().back()) continue;
      if (!memory.read(std::as_bytes(table_.at(number)), kMostEach)) break;
    }
    return row;
  }

 private:
  InputVector<std::uint8_t> bytes_;
  InputVector<std::int64_t> ends_;
  BlobTable table_;
};

}  // namespace

void register_blobs(py::module_& m) {
  py::class_<BoundBlobs>(m, "Blobs", R"(Byte strings by number, read in place from two arrays.

Args:
    data: uint8 ``(size,)``, C-contiguous.
    ends: int64 ``(count + 1,)``: string ``i`` lies from ``ends[i]`` to ``ends[i + 1]``.

Both are kept and must not change. Any number of threads may share one. In all methods ``docs`` is ``(n,)`` of whole
numbers, int32 at best.

Raises:
    TypeError, ValueError: other arrays, or ends that do not fit the bytes.)")
      .def(py::init<const py::object&, const py::object&>(), py::arg("data"), py::arg("ends"))
      .def("__len__", &BoundBlobs::size, "Number of strings.")
      .def("one", &BoundBlobs::one, py::arg("number"),
           "One string as bytes. Raises IndexError, RuntimeError as texts.")
      .def("texts", &BoundBlobs::texts, py::arg("docs"),
           R"(The strings of `docs` as a list of str. The GIL is held.

Raises IndexError for a number that does not exist, UnicodeDecodeError for what is no UTF-8, RuntimeError where the
ends are damaged.)")
      .def("json_list", &BoundBlobs::json_list, py::arg("docs"),
           R"(The strings of `docs`, each of them JSON, as the bytes of one JSON list. The GIL is held.

Raises IndexError, RuntimeError as texts.)")
      .def(
          "touch", &BoundBlobs::touch, py::arg("docs"), py::kw_only(), py::arg("seconds") = Touch::kSeconds,
          R"(Read the strings of `docs`, so that they are in memory and in the processor's caches; returns of how many.

It ends after 1 MiB, of which 4 KiB a string, and after `seconds` (0 to 1), or the one page fault in which they
pass. Numbers that do not exist are passed over. The GIL is released.)");
}

}  // namespace searchpipe::bindings
