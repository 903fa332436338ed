#include "bindings/module.h"

PYBIND11_MODULE(_core, m) {
  using namespace searchpipe::bindings;
  m.doc() = "The C++ core of searchpipe. Every long call releases the GIL.";
  register_token_store(m);
  register_postings(m);
  register_pair_packer(m);
  register_batch_planner(m);
  register_diversity(m);
  register_fusion(m);
  register_candidates(m);
  register_features(m);
  register_blobs(m);
  register_hit_writer(m);
  register_page(m);
  register_cost_model(m);
  register_histogram(m);
  register_device(m);
  register_readback(m);
  register_engine(m);
  register_request_cost(m);
  register_scorer(m);
  register_head_plan(m);
  register_text_packer(m);
}
