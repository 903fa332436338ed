#pragma once

#include <pybind11/pybind11.h>

namespace searchpipe::bindings {

// One function a bound class (or family of functions), each in a file of its own.
void register_token_store(pybind11::module_& m);
void register_postings(pybind11::module_& m);  // after register_token_store, which translates IoError
void register_pair_packer(pybind11::module_& m);
void register_batch_planner(pybind11::module_& m);
void register_diversity(pybind11::module_& m);
void register_fusion(pybind11::module_& m);
void register_candidates(pybind11::module_& m);
void register_features(pybind11::module_& m);
void register_blobs(pybind11::module_& m);
void register_hit_writer(pybind11::module_& m);
void register_page(pybind11::module_& m);
void register_cost_model(pybind11::module_& m);
void register_histogram(pybind11::module_& m);
void register_device(pybind11::module_& m);
void register_readback(pybind11::module_& m);      // after register_device
void register_engine(pybind11::module_& m);        // after register_device
void register_request_cost(pybind11::module_& m);  // after register_engine
void register_scorer(pybind11::module_& m);        // after register_engine
void register_head_plan(pybind11::module_& m);     // after register_scorer
void register_text_packer(pybind11::module_& m);   // after register_scorer

}  // namespace searchpipe::bindings
