#pragma once

#include <pybind11/pybind11.h>

#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>

#ifdef __GLIBCXX__
#include <cxxabi.h>
#endif

// Taking the GIL while the interpreter ends does not come back on CPython before 3.14: the thread is ended
// inside the call, and glibc ends threads by unwinding their stacks. That aborts the process in a destructor
// or in a `catch (...)`, and runs destructors that need the GIL. What is here holds such a thread where it
// is until the process is gone, as CPython 3.14 does itself.

namespace searchpipe::bindings {

[[noreturn]] inline void sleep_for_good() {
  for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
}

// What `call` gives back, if the thread is not ended in it.
template <class Call>
auto staying(Call call) {
#ifdef __GLIBCXX__
  try {
    return call();
  } catch (abi::__forced_unwind&) {
    sleep_for_good();
  }
#else
  return call();
#endif
}

// A Python object that a destructor lets go of, under the GIL. If nobody else holds it, that may run anything
// and ask for the GIL: an array over a memory map does when it is unmapped. ~object() would not let a thread
// be held.
template <class Object = pybind11::object>
class Kept : public Object {
 public:
  Kept(Object object) : Object(std::move(object)) {}
  Kept(const Kept&) = default;
  Kept(Kept&&) = default;
  Kept& operator=(Kept other) noexcept {
    std::swap(this->m_ptr, other.m_ptr);
    return *this;
  }
  ~Kept() {
    staying([last = this->release().ptr()] { Py_XDECREF(last); });
  }
};

// Whether Python code can no more be run.
inline bool python_has_ended() {
#if PY_VERSION_HEX >= 0x030D0000
  return Py_IsInitialized() == 0 || Py_IsFinalizing() != 0;
#else
  return Py_IsInitialized() == 0 || _Py_IsFinalizing() != 0;
#endif
}

// Releases the GIL while it lives.
class ReleaseGil {
 public:
  ReleaseGil() : state_(PyEval_SaveThread()) {}
  ~ReleaseGil() {
    staying([this] { PyEval_RestoreThread(state_); });
  }
  ReleaseGil(const ReleaseGil&) = delete;
  ReleaseGil& operator=(const ReleaseGil&) = delete;

 private:
  PyThreadState* state_;
};

// Holds the GIL while it lives, on any thread.
class AcquireGil {
 public:
  AcquireGil() {
    staying([this] { held_.emplace(); });
  }

 private:
  std::optional<pybind11::gil_scoped_acquire> held_;
};

// Calls Python code, under the GIL. Throws error_already_set.
inline pybind11::object call_python(const pybind11::function& function, const pybind11::tuple& arguments) {
  PyObject* const result = staying([&] { return PyObject_CallObject(function.ptr(), arguments.ptr()); });
  if (result == nullptr) throw pybind11::error_already_set();
  return pybind11::reinterpret_steal<pybind11::object>(result);
}

// A Python callable that C++ threads may copy, call and drop without holding
// the GIL: it is taken for the call and for the last drop.
class GilFunction {
 public:
  explicit GilFunction(pybind11::function function)
      : function_(new Kept<pybind11::function>(std::move(function)), [](Kept<pybind11::function>* held) {
          if (python_has_ended()) return;  // leaked, with everything else
          AcquireGil acquire;
          delete held;
        }) {}

  // `make_arguments` builds the argument tuple under the GIL. A Python exception becomes
  // std::runtime_error("Type: text"), which needs no GIL to be carried on.
  template <class MakeArguments>
  void call(MakeArguments make_arguments) const {
    if (python_has_ended()) throw std::runtime_error("the interpreter has ended");
    AcquireGil acquire;
    try {
      call_python(*function_, make_arguments());
    } catch (pybind11::error_already_set& error) {
      const std::string type = pybind11::str(error.type().attr("__name__"));
      const std::string text = pybind11::str(error.value());
      throw std::runtime_error(type + ": " + text);
    }
  }

 private:
  std::shared_ptr<Kept<pybind11::function>> function_;
};

// Releases the GIL while it lives, if the work of `size` is worth it: a thread that wants it back may have to
// wait for a whole switch interval (5 ms) of another one.
class ReleaseIfLong {
 public:
  ReleaseIfLong(std::size_t size, std::size_t worth_it) {
    if (size >= worth_it) release_.emplace();
  }

 private:
  std::optional<ReleaseGil> release_;
};

// An object that joins threads which may want the GIL, or frees device memory, whose driver waits for all
// work on the device first: destroyed with the GIL released. When the interpreter ends it is leaked, for
// such a thread would never be joined.
template <class T>
std::shared_ptr<T> releasing(std::unique_ptr<T> object) {
  return std::shared_ptr<T>(object.release(), [](T* held) {
    if (python_has_ended()) return;
    if (PyGILState_Check() == 0) {  // the last reference may fall on a thread without the GIL
      delete held;
      return;
    }
    ReleaseGil release;
    delete held;
  });
}

}  // namespace searchpipe::bindings
