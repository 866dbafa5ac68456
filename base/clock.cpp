#include "base/clock.h"

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <ctime>
#include <limits>
#include <map>
#include <unordered_map>
#include <utility>

namespace kvferry {

std::uint64_t monotonic_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * kSecond + static_cast<std::uint64_t>(now.tv_nsec);
}

namespace {

class AsioTimers : public Timers {
 public:
  explicit AsioTimers(boost::asio::io_context& io)
      : io_(io), pending_(std::make_shared<Pending>()) {}

  std::uint64_t now_ns() const override { return monotonic_ns(); }

  Id at(std::uint64_t at_ns, std::function<void()> callback) override {
    const Id id = ++last_id_;
    auto timer = std::make_unique<boost::asio::steady_timer>(io_);
    // steady_clock is CLOCK_MONOTONIC; its count is signed.
    constexpr auto kLatest = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    const auto since_boot = static_cast<std::int64_t>(std::min(at_ns, kLatest));
    timer->expires_at(std::chrono::steady_clock::time_point(std::chrono::nanoseconds(since_boot)));
    // The handler may be queued already when the timer is cancelled or this object is destroyed:
    // it runs the callback only if it still finds it.
    timer->async_wait([pending = std::weak_ptr<Pending>(pending_), id](const auto&) {
      const auto alive = pending.lock();
      if (!alive) return;
      auto entry = alive->extract(id);
      if (!entry.empty()) entry.mapped().callback();
    });
    pending_->emplace(id, Entry{std::move(timer), std::move(callback)});
    return id;
  }

  void cancel(Id id) override { pending_->erase(id); }

 private:
  struct Entry {
    std::unique_ptr<boost::asio::steady_timer> timer;
    std::function<void()> callback;
  };
  using Pending = std::unordered_map<Id, Entry>;

  boost::asio::io_context& io_;
  std::shared_ptr<Pending> pending_;
  Id last_id_ = 0;
};

}  // namespace

std::unique_ptr<Timers> make_asio_timers(boost::asio::io_context& io) {
  return std::make_unique<AsioTimers>(io);
}

struct ManualTimers::Impl {
  std::uint64_t now = kSecond;  // not 0, so that a time of 0 can mean "never"
  Id last_id = 0;
  std::map<std::pair<std::uint64_t, Id>, std::function<void()>> due;
  std::unordered_map<Id, std::uint64_t> time_of;
};

ManualTimers::ManualTimers() : impl_(std::make_unique<Impl>()) {}
ManualTimers::~ManualTimers() = default;

std::uint64_t ManualTimers::now_ns() const { return impl_->now; }

Timers::Id ManualTimers::at(std::uint64_t at_ns, std::function<void()> callback) {
  const Id id = ++impl_->last_id;
  // What is due already runs at the next advance, after what was due before it.
  const std::uint64_t time = std::max(at_ns, impl_->now);
  impl_->due.emplace(std::pair(time, id), std::move(callback));
  impl_->time_of.emplace(id, time);
  return id;
}

void ManualTimers::cancel(Id id) {
  const auto found = impl_->time_of.find(id);
  if (found == impl_->time_of.end()) return;
  impl_->due.erase({found->second, id});
  impl_->time_of.erase(found);
}

void ManualTimers::advance(std::uint64_t delta_ns) {
  const std::uint64_t end = impl_->now + delta_ns;
  while (!impl_->due.empty() && impl_->due.begin()->first.first <= end) {
    auto entry = impl_->due.extract(impl_->due.begin());
    impl_->time_of.erase(entry.key().second);
    impl_->now = std::max(impl_->now, entry.key().first);
    entry.mapped()();
  }
  impl_->now = std::max(impl_->now, end);
}

}  // namespace kvferry
