#include "bindings/module.h"

namespace searchpipe::bindings {

void register_pair_packer(pybind11::module_& m) { (void)m; }

}  // namespace searchpipe::bindings
