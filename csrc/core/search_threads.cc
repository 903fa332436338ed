#include "core/search_threads.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "core/message.h"

namespace searchpipe {

SearchThreads::SearchThreads(int count) {
  if (count < 1 || count > kMost) {
    throw std::invalid_argument(message("there cannot be ", count, " search threads; ask for 1 to ", kMost));
  }
  for (int i = 0; i < count; ++i) workers_.push_back(std::make_unique<Worker>());
  idle_.reserve(workers_.size());
  try {
    for (const std::unique_ptr<Worker>& worker : workers_) {
      worker->thread = std::thread([this, &worker = *worker] { serve(worker); });
    }
  } catch (...) {
    close();
    throw;
  }
}

SearchThreads::~SearchThreads() { close(); }

void SearchThreads::close() {
  {
    std::lock_guard lock(mutex_);
    closing_ = true;
    idle_.clear();
  }
  for (const std::unique_ptr<Worker>& worker : workers_) worker->given.notify_one();
  std::lock_guard joining(joining_);
  for (const std::unique_ptr<Worker>& worker : workers_) {
    if (worker->thread.joinable()) worker->thread.join();
  }
}

int SearchThreads::share(const std::shared_ptr<PostingsSearch>& search, int wanted) {
  Worker* first = nullptr;
  int given = 0;
  {
    std::lock_guard lock(mutex_);
    const int most = std::min(wanted, (static_cast<int>(idle_.size()) + 1) / 2);
    for (; given < most; ++given) {
      Worker* const worker = idle_.back();
      idle_.pop_back();
      worker->search = search;
      worker->next = std::exchange(first, worker);
    }
  }
  if (first != nullptr) first->given.notify_one();
  return given;
}

void SearchThreads::serve(Worker& worker) {
  std::unique_lock lock(mutex_);
  while (!closing_) {
    idle_.push_back(&worker);
    worker.given.wait(lock, [&] { return closing_ || worker.search != nullptr; });
    std::shared_ptr<PostingsSearch> search = std::move(worker.search);
    Worker* const next = std::exchange(worker.next, nullptr);
    lock.unlock();
    if (next != nullptr) next->given.notify_one();
    if (search != nullptr) search->run();
    search.reset();  // may be the last one to hold it
    lock.lock();
  }
}

}  // namespace searchpipe
