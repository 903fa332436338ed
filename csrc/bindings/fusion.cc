#include "bindings/module.h"

namespace searchpipe::bindings {

void register_fusion(pybind11::module_& m) { (void)m; }

}  // namespace searchpipe::bindings
