#include "cuda/graph.h"

#include <stdexcept>
#include <utility>

#include "cuda/error.h"

namespace searchpipe::cuda {
namespace {

// Ends the capture if `enqueue` throws: a stream left in capture mode refuses all further work.
class Capture {
 public:
  explicit Capture(Stream& stream) : stream_(stream) {
    check(driver().cuStreamBeginCapture(stream.handle(), kCaptureThreadLocal), "cuStreamBeginCapture");
  }
  ~Capture() {
    GraphHandle graph = nullptr;
    if (open_) driver().cuStreamEndCapture(stream_.handle(), &graph);
    if (graph != nullptr) driver().cuGraphDestroy(graph);
  }
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;

  GraphHandle end() {
    open_ = false;
    GraphHandle graph = nullptr;
    check(driver().cuStreamEndCapture(stream_.handle(), &graph), "cuStreamEndCapture");
    return graph;
  }

 private:
  Stream& stream_;
  bool open_ = true;
};

struct GraphOwner {
  GraphHandle graph;
  ~GraphOwner() { driver().cuGraphDestroy(graph); }
};

}  // namespace

GraphExec GraphExec::capture(Stream& stream, const std::function<void()>& enqueue) {
  CurrentContext current(*stream.device());
  GraphHandle graph = nullptr;
  {
    Capture capture(stream);
    enqueue();
    graph = capture.end();
  }
  if (graph == nullptr)
    throw std::runtime_error("nothing was captured: the work left the stream it was given");
  GraphOwner owner{graph};
  GraphExec exec;
  exec.device_ = stream.device();
  check(driver().cuGraphGetNodes(graph, nullptr, &exec.nodes_), "cuGraphGetNodes");
  if (exec.nodes_ == 0) throw std::runtime_error("nothing was captured: no work was put on the stream");
  check(driver().cuGraphInstantiateWithFlags(&exec.handle_, graph, 0), "cuGraphInstantiateWithFlags");
  return exec;
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
  return *this;
}

void GraphExec::launch(Stream& stream) const {
  CurrentContext current(*device_);
  check(driver().cuGraphLaunch(handle_, stream.handle()), "cuGraphLaunch");
}

void GraphExec::upload(Stream& stream) const {
  CurrentContext current(*device_);
  check(driver().cuGraphUpload(handle_, stream.handle()), "cuGraphUpload");
}

}  // namespace searchpipe::cuda
