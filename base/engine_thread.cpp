#include "base/engine_thread.h"

#include <utility>

#include "base/clock.h"

namespace kvferry {

EngineThread::~EngineThread() { stop(); }

void EngineThread::add_stepper(std::function<bool()> step) { steppers_.push_back(std::move(step)); }

void EngineThread::start() {
  {
    std::lock_guard lock(mutex_);
    last_turn_ns_ = monotonic_ns();
    idle_ = false;
  }
  thread_ = std::thread([this] { run(); });
}

void EngineThread::stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
  // Destroyed outside the lock: what a dropped task owns may post.
  std::vector<std::function<void()>> dropped;
  std::lock_guard lock(mutex_);
  dropped.swap(inbox_);
}

void EngineThread::post(std::function<void()> task) {
  {
    std::lock_guard lock(mutex_);
    if (stopping_) return;
    inbox_.push_back(std::move(task));
  }
  wake_.notify_one();
}

std::uint64_t EngineThread::still_ns() const {
  std::lock_guard lock(mutex_);  // of both readings, so the clock's is not before the turn's
  return idle_ ? 0 : monotonic_ns() - last_turn_ns_;
}

void EngineThread::run() {
  std::vector<std::function<void()>> tasks;
  bool worked = true;
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      if (!worked) {
        idle_ = true;
        wake_.wait(lock, [this] { return stopping_ || !inbox_.empty(); });
        idle_ = false;
      }
      if (stopping_) return;
      last_turn_ns_ = monotonic_ns();
      tasks.swap(inbox_);
    }
    for (auto& task : tasks) {
      task();
      task = nullptr;
    }
    worked = !tasks.empty();
    tasks.clear();
    for (const auto& step : steppers_) worked = step() || worked;
  }
}

}  // namespace kvferry
