#include "cuda/graph.h"

#include <algorithm>
#include <stdexcept>
#include <utility>
#include <vector>

#include "cuda/error.h"
#include "cuda/graph_nodes.h"

namespace searchpipe::cuda {
namespace {

// Ends the capture if `enqueue` throws: a stream left in capture mode refuses all further work.
class Capture {
 public:
  explicit Capture(StreamHandle stream) : stream_(stream) {
    check(driver().cuStreamBeginCapture(stream, kCaptureThreadLocal), "cuStreamBeginCapture");
  }
  ~Capture() {
    GraphHandle graph = nullptr;
    if (open_) driver().cuStreamEndCapture(stream_, &graph);
    if (graph != nullptr) driver().cuGraphDestroy(graph);
  }
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;

  GraphHandle end() {
    open_ = false;
    GraphHandle graph = nullptr;
    check(driver().cuStreamEndCapture(stream_, &graph), "cuStreamEndCapture");
    return graph;
  }

 private:
  StreamHandle stream_;
  bool open_ = true;
};

class GraphOwner {
 public:
  explicit GraphOwner(GraphHandle graph) : graph_(graph) {}
  ~GraphOwner() { driver().cuGraphDestroy(graph_); }
  GraphOwner(const GraphOwner&) = delete;
  GraphOwner& operator=(const GraphOwner&) = delete;

 private:
  GraphHandle graph_;
};

}  // namespace

GraphExec GraphExec::capture(Stream& stream, const std::function<void()>& enqueue,
                             const std::function<Rewritten(GraphHandle)>& rewrite) {
  return capture(stream.device(), stream.handle(), enqueue, rewrite);
}

GraphExec GraphExec::capture(const std::shared_ptr<Device>& device, StreamHandle stream,
                             const std::function<void()>& enqueue,
                             const std::function<Rewritten(GraphHandle)>& rewrite) {
  CurrentContext current(*device);
  GraphHandle graph = nullptr;
  {
    Capture capture(stream);
    enqueue();
    graph = capture.end();
  }
  if (graph == nullptr)
    throw std::runtime_error("nothing was captured: the work left the stream it was given");
  const GraphOwner owner(graph);
  GraphExec exec;
  exec.device_ = device;
  check(driver().cuGraphGetNodes(graph, nullptr, &exec.nodes_), "cuGraphGetNodes");
  if (exec.nodes_ == 0) throw std::runtime_error("nothing was captured: no work was put on the stream");
  if (rewrite) exec.instantiate_rewritten(graph, rewrite);
  if (exec.handle_ == nullptr) exec.instantiate(graph);
  return exec;
}

void GraphExec::instantiate(GraphHandle graph) {
  check(driver().cuGraphInstantiateWithFlags(&handle_, graph, 0), "cuGraphInstantiateWithFlags");
}

// Leaves no handle if there is nothing to gain, or something fails on the way.
void GraphExec::instantiate_rewritten(GraphHandle graph,
                                      const std::function<Rewritten(GraphHandle)>& rewrite) {
  try {
    const std::vector<NodeHandle> nodes = nodes_of(graph);
    const auto allocations = std::count_if(nodes.begin(), nodes.end(),
                                           [](NodeHandle it) { return type_of(it) == kNodeAllocation; });
    if (allocations > 0) {
      rewritten_.left = "all: it allocates memory (" + std::to_string(allocations) +
                        " times), and the driver copies no such graph";
      return;
    }
    GraphHandle clone = nullptr;
    check(driver().cuGraphClone(&clone, graph), "cuGraphClone");
    const GraphOwner owner(clone);
    rewritten_ = rewrite(clone);
    if (rewritten_.replaced > 0) instantiate(clone);
  } catch (const std::exception& error) {
    handle_ = nullptr;
    rewritten_ = {0, error.what()};
  }
}

GraphExec::~GraphExec() {
  if (handle_ == nullptr) return;
  try {
    CurrentContext current(*device_);
    driver().cuGraphExecDestroy(handle_);
  } catch (const CudaError&) {
  }
}

GraphExec::GraphExec(GraphExec&& other) noexcept { *this = std::move(other); }

GraphExec& GraphExec::operator=(GraphExec&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(handle_, other.handle_);
  std::swap(nodes_, other.nodes_);
  std::swap(rewritten_, other.rewritten_);
  return *this;
}

void GraphExec::launch(StreamHandle stream) const {
  CurrentContext current(*device_);
  check(driver().cuGraphLaunch(handle_, stream), "cuGraphLaunch");
}

void GraphExec::upload(Stream& stream) const {
  CurrentContext current(*device_);
  check(driver().cuGraphUpload(handle_, stream.handle()), "cuGraphUpload");
}

}  // namespace searchpipe::cuda
