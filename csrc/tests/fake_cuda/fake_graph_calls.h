#pragma once

// Graphs and their nodes. Part of fake_cuda.cc, which exports them.

#include "tests/fake_cuda/fake_driver.h"
#include "tests/fake_cuda/fake_stream_calls.h"

namespace fake_cuda {
namespace {

using searchpipe::cuda::CopyParams;
using searchpipe::cuda::KernelNodeParams;
using searchpipe::cuda::MemsetParams;

// Answers as the driver's lists do: how many there are, or as many as there is room for.
template <class Found>
int list(const std::vector<Found>& found, void** nodes, size_t* count) {
  if (nodes != nullptr) {
    for (size_t i = 0; i < *count; ++i)
      nodes[i] = i < found.size() ? static_cast<void*>(&*found[i]) : nullptr;
  }
  *count = nodes == nullptr ? found.size() : std::min(*count, found.size());
  return kSuccess;
}

// Nodes of a graph, which has to have all of them.
bool nodes_in(Graph* graph, void* const* handles, size_t count, std::vector<Node*>& nodes) {
  for (size_t i = 0; i < count; ++i) {
    auto* node = static_cast<Node*>(handles[i]);
    const bool known = std::any_of(graph->nodes.begin(), graph->nodes.end(),
                                   [node](const auto& it) { return it.get() == node; });
    if (!known) return false;
    nodes.push_back(node);
  }
  return true;
}

int cuGraphInstantiateWithFlags(void** exec, void* graph, unsigned long long) {
  ENTER("cuGraphInstantiateWithFlags");
  const auto* it = static_cast<Graph*>(graph);
  auto works = std::make_shared<const std::vector<Work>>(it->order());
  if (works->size() != it->nodes.size()) return kInvalidValue;
  *exec = new Exec{std::move(works)};
  return kSuccess;
}
int cuGraphGetNodes(void* graph, void** nodes, size_t* count) {
  ENTER("cuGraphGetNodes");
  return list(static_cast<Graph*>(graph)->nodes, nodes, count);
}
int cuGraphClone(void** clone, void* graph) {
  ENTER("cuGraphClone");
  if (static_cast<Graph*>(graph)->allocates()) return kNotSupported;
  *clone = static_cast<Graph*>(graph)->clone().release();
  return kSuccess;
}
int cuGraphDestroy(void* graph) {
  delete static_cast<Graph*>(graph);
  return kSuccess;
}
int cuGraphNodeGetType(void* node, int* type) {
  ENTER("cuGraphNodeGetType");
  *type = static_cast<Node*>(node)->op.type;
  return kSuccess;
}
int cuGraphNodeGetDependencies(void* node, void** nodes, size_t* count) {
  ENTER("cuGraphNodeGetDependencies");
  return list(static_cast<Node*>(node)->before, nodes, count);
}
int cuGraphNodeGetDependentNodes(void* node, void** nodes, size_t* count) {
  ENTER("cuGraphNodeGetDependentNodes");
  return list(static_cast<Node*>(node)->after, nodes, count);
}
int cuGraphMemsetNodeGetParams(void* node, MemsetParams* params) {
  ENTER("cuGraphMemsetNodeGetParams");
  const auto* found = std::get_if<MemsetParams>(&static_cast<Node*>(node)->op.params);
  if (found == nullptr) return kInvalidValue;
  *params = *found;
  return kSuccess;
}
int cuGraphMemcpyNodeGetParams(void* node, CopyParams* params) {
  ENTER("cuGraphMemcpyNodeGetParams");
  const auto* found = std::get_if<CopyParams>(&static_cast<Node*>(node)->op.params);
  if (found == nullptr) return kInvalidValue;
  *params = *found;
  return kSuccess;
}
int cuGraphAddKernelNode(void** node, void* graph, void* const* before, size_t count,
                         const KernelNodeParams* params) {
  ENTER("cuGraphAddKernelNode");
  auto* it = static_cast<Graph*>(graph);
  std::vector<Node*> nodes;
  if (params->function == nullptr || params->extra != nullptr || !nodes_in(it, before, count, nodes)) {
    return kInvalidValue;
  }
  Work work = kernel_work(params->function, params->grid_x, params->block_x, params->arguments);
  *node = it->add({"cuLaunchKernel", std::move(work), searchpipe::cuda::kNodeKernel}, nodes);
  return kSuccess;
}
int cuGraphAddDependencies(void* graph, void* const* from, void* const* to, size_t count) {
  ENTER("cuGraphAddDependencies");
  std::vector<Node*> begins, ends;
  auto* it = static_cast<Graph*>(graph);
  if (!nodes_in(it, from, count, begins) || !nodes_in(it, to, count, ends)) return kInvalidValue;
  for (size_t i = 0; i < count; ++i) Graph::connect(begins[i], ends[i]);
  return kSuccess;
}
int cuGraphDestroyNode(void* node) {
  ENTER("cuGraphDestroyNode");
  auto* it = static_cast<Node*>(node);
  if (it->graph->allocates()) return kNotSupported;
  it->graph->remove(it);
  return kSuccess;
}
int cuGraphExecDestroy(void* exec) {
  delete static_cast<Exec*>(exec);
  return kSuccess;
}
int cuGraphUpload(void*, void*) {
  ENTER("cuGraphUpload");
  return kSuccess;
}
int cuGraphLaunch(void* exec, void* stream) {
  ENTER("cuGraphLaunch");
  const auto works = static_cast<Exec*>(exec)->works;
  return static_cast<Stream*>(stream)->enqueue({"cuGraphLaunch", [works] {
                                                  for (const Work& work : *works) work();
                                                }});
}

}  // namespace
}  // namespace fake_cuda
