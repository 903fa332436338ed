#include "core/cost_model.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <string_view>

#include "bindings/module.h"
#include "core/message.h"

namespace py = pybind11;

namespace searchpipe::bindings {
namespace {

py::dict snapshot(const CostModel& costs) {
  py::dict stages;
  for (const CostModel::Typical& one : costs.typical()) {
    const py::str stage(one.stage);
    if (!stages.contains(stage)) stages[stage] = py::dict();
    stages[stage][py::float_(one.size)] = one.seconds;
  }
  return stages;
}

// What a query has measured; a row that is no observation teaches nothing.
void observe_many(CostModel& costs, const py::list& rows) {
  for (const py::handle row : rows) {
    if (!PyTuple_Check(row.ptr()) || PyTuple_GET_SIZE(row.ptr()) != 3) {
      throw py::type_error("a row is no tuple of stage, size and seconds");
    }
    Py_ssize_t length = 0;
    const char* const stage = PyUnicode_AsUTF8AndSize(PyTuple_GET_ITEM(row.ptr(), 0), &length);
    const double size = stage == nullptr ? -1.0 : PyFloat_AsDouble(PyTuple_GET_ITEM(row.ptr(), 1));
    const double seconds =
        PyErr_Occurred() != nullptr ? -1.0 : PyFloat_AsDouble(PyTuple_GET_ITEM(row.ptr(), 2));
    if (PyErr_Occurred() != nullptr) {  // no text, no number, or one that no double holds
      PyErr_Clear();
      continue;
    }
    costs.observe({stage, static_cast<std::size_t>(length)}, size, seconds);
  }
}

py::list reserves(const CostModel& costs, const py::tuple& stages, const py::tuple& limits) {
  if (stages.size() != limits.size()) {
    throw py::value_error(message("there are ", stages.size(), " stages and ", limits.size(), " limits"));
  }
  py::list kept(stages.size());
  double total = 0.0;
  for (std::size_t place = stages.size(); place-- > 0;) {
    kept[place] = py::float_(total);
    const py::handle limit = PyTuple_GET_ITEM(limits.ptr(), static_cast<py::ssize_t>(place));
    if (place == 0 || limit.is_none()) continue;
    const auto most = limit.cast<double>();
    const py::handle stage = PyTuple_GET_ITEM(stages.ptr(), static_cast<py::ssize_t>(place));
    const std::optional<double> expected = costs.predict(stage.cast<std::string_view>(), 1.0);
    total += expected.has_value() && *expected <= most ? *expected : most;
  }
  return kept;
}

}  // namespace

void register_cost_model(py::module_& m) {
  py::class_<CostModel>(m, "CostModel",
                        R"(What steps have cost so far, by stage and size; searchpipe.cost_model says how.

Threads: any; the GIL is held, because everything here takes less than a microsecond.)")
      .def(
          py::init([](double rise, double fall, double margin) {
            return std::make_unique<CostModel>(CostModel::Settings{rise, fall, margin});
          }),
          py::kw_only(), py::arg("rise") = 0.4, py::arg("fall") = 0.1, py::arg("margin") = 2.0,
          R"(rise, fall: weights of a new observation above and below the mean. margin: deviations that predict()
adds to the mean.)")
      .def("observe", &CostModel::observe, py::arg("stage"), py::arg("size"), py::arg("seconds"),
           "Learn that a step of `size` took `seconds`; what is not possible is not learnt.")
      .def("observe_many", &observe_many, py::arg("rows"),
           R"(observe() for each tuple of stage, size and seconds in a list, in one call.

What is not possible is not learnt; raises TypeError for what is no tuple of three.)")
      .def("reserves", &reserves, py::arg("stages"), py::arg("limits"),
           R"(For each stage, seconds to keep free for those after it: a list of float.

stages: names as observed, in the order they run. limits: the most to keep for each, in seconds, or None for one
that nothing is kept for. A stage counts with what predict(stage, 1) says, within its limit; with its limit if it
has not run yet. Raises ValueError for tuples of unequal length.)")
      .def("predict", &CostModel::predict, py::arg("stage"), py::arg("size"),
           R"(Cautious seconds for a step of `size`, or None for a stage that has not run yet.

Raises ValueError for a size that is not finite.)")
      .def("largest_within", &CostModel::largest_within, py::arg("stage"), py::arg("size_of_one"),
           py::arg("limit"), py::arg("seconds"),
           R"(How many items of `size_of_one` fit into `seconds`: 0 to `limit`.

An unknown stage gets one item, to learn from. Raises as predict().)")
      .def("relax_at", &CostModel::relax, py::arg("stage"), py::arg("size"), py::arg("now"),
           R"(Forget a tenth of what a refused step was thought to cost, at most once a second.

now: on any clock, in seconds. Raises as predict().)")
      .def("snapshot", &snapshot, "Stage -> typical size -> mean seconds, for display.");
}

}  // namespace searchpipe::bindings
