#include "base/compute_pool.h"

#include <immintrin.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <ctime>
#include <mutex>
#include <thread>
#include <vector>

#include "base/clock.h"

namespace kvferry {
namespace {

// A layer issues its next batch of tasks a few microseconds after the last: spinning that long
// saves a futex round trip (about 50 us on a virtual machine), longer would only steal from other
// processes.
constexpr std::uint64_t kSpinNs = 4'000;

std::uint64_t thread_cpu_ns() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * kSecond + static_cast<std::uint64_t>(now.tv_nsec);
}

template <class Condition>
bool spin_until(const Condition& condition) {
  const std::uint64_t end = monotonic_ns() + kSpinNs;
  do {
    for (int i = 0; i < 16; ++i) {
      if (condition()) return true;
      _mm_pause();
    }
  } while (monotonic_ns() < end);
  return condition();
}

struct Job {
  const std::function<void(std::size_t, int)>* task = nullptr;
  std::size_t count = 0;
};

}  // namespace

struct ComputePool::Impl {
  std::mutex mutex;
  std::condition_variable wake;
  std::condition_variable left;
  bool stopping = false;             // under mutex
  bool open = false;                 // under mutex: a job that workers may join
  Job job;                           // written under mutex while nobody is in
  std::atomic<std::size_t> next{0};  // first index that nobody has taken
  std::atomic<int> inside{0};        // workers in the job; changed under mutex
  std::atomic<std::uint64_t> generation{0};
  std::atomic<std::uint64_t> busy{0};
  std::vector<std::thread> workers;

  void drain(const Job& current, int worker) {
    const std::uint64_t start = thread_cpu_ns();
    for (;;) {
      const std::size_t index = next.fetch_add(1, std::memory_order_relaxed);
      if (index >= current.count) break;
      (*current.task)(index, worker);
    }
    busy.fetch_add(thread_cpu_ns() - start, std::memory_order_relaxed);
  }

  // A worker joins an open job only, so the caller never waits for threads that slept through it.
  void work(int worker) {
    std::uint64_t seen = 0;
    for (;;) {
      spin_until([&] { return generation.load(std::memory_order_relaxed) != seen; });
      Job current;
      {
        std::unique_lock lock(mutex);
        wake.wait(lock, [&] { return stopping || generation != seen; });
        if (stopping) return;
        seen = generation;
        if (!open) continue;
        current = job;
        ++inside;
      }
      drain(current, worker);
      std::lock_guard lock(mutex);
      if (--inside == 0) left.notify_one();
    }
  }
};

ComputePool::ComputePool(int threads) : impl_(std::make_unique<Impl>()) {
  for (int worker = 1; worker < std::max(threads, 1); ++worker) {
    impl_->workers.emplace_back([impl = impl_.get(), worker] { impl->work(worker); });
  }
}

ComputePool::~ComputePool() {
  {
    std::lock_guard lock(impl_->mutex);
    impl_->stopping = true;
    ++impl_->generation;
  }
  impl_->wake.notify_all();
  for (std::thread& worker : impl_->workers) worker.join();
}

int ComputePool::threads() const { return static_cast<int>(impl_->workers.size()) + 1; }

void ComputePool::parallel_for(std::size_t count,
                               const std::function<void(std::size_t index, int worker)>& task) {
  if (count == 0) return;
  Impl& impl = *impl_;
  const Job job{&task, count};
  if (count == 1 || impl.workers.empty()) {
    impl.next.store(0, std::memory_order_relaxed);
    impl.drain(job, 0);
    return;
  }
  {
    std::lock_guard lock(impl.mutex);
    impl.job = job;
    impl.next.store(0, std::memory_order_relaxed);
    impl.open = true;
    ++impl.generation;
  }
  const std::size_t helpers = std::min(count - 1, impl.workers.size());
  if (helpers == impl.workers.size()) {
    impl.wake.notify_all();
  } else {
    for (std::size_t i = 0; i < helpers; ++i) impl.wake.notify_one();
  }
  impl.drain(job, 0);
  {
    std::lock_guard lock(impl.mutex);
    impl.open = false;  // every index is taken: who comes now would find nothing
  }
  if (spin_until([&] { return impl.inside.load(std::memory_order_acquire) == 0; })) return;
  std::unique_lock lock(impl.mutex);
  impl.left.wait(lock, [&] { return impl.inside == 0; });
}

std::uint64_t ComputePool::busy_ns() const { return impl_->busy.load(std::memory_order_relaxed); }

}  // namespace kvferry
