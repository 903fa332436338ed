#include "core/cost_model.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>

#include "bindings/module.h"

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
