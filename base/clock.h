// Time and timers behind an interface, so that tests run on virtual time and never sleep.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <utility>

namespace boost::asio {
class io_context;
}

namespace kvferry {

// Nanoseconds of CLOCK_MONOTONIC.
std::uint64_t monotonic_ns();

inline constexpr std::uint64_t kMillisecond = 1'000'000;
inline constexpr std::uint64_t kSecond = 1'000'000'000;

// One-shot timers. Thread contract: one thread (the reactor's), which also runs the callbacks.
class Timers {
 public:
  using Id = std::uint64_t;  // 0 is never a valid id
  virtual ~Timers() = default;
  virtual std::uint64_t now_ns() const = 0;
  // Runs `callback` once, at or after at_ns, never inside this call.
  virtual Id at(std::uint64_t at_ns, std::function<void()> callback) = 0;
  // A delay too long to count means never.
  Id after(std::uint64_t delay_ns, std::function<void()> callback) {
    const std::uint64_t now = now_ns();
    const bool wraps = delay_ns > std::numeric_limits<std::uint64_t>::max() - now;
    return at(wraps ? std::numeric_limits<std::uint64_t>::max() : now + delay_ns,
              std::move(callback));
  }
  // The callback will not run. Ids that ran or were cancelled are ignored.
  virtual void cancel(Id id) = 0;
};

// Timers on an io_context, which must outlive them; callbacks run on its thread.
std::unique_ptr<Timers> make_asio_timers(boost::asio::io_context& io);

// Virtual time for tests: advance() moves it and runs what is due, in time order.
class ManualTimers : public Timers {
 public:
  ManualTimers();
  ~ManualTimers() override;
  std::uint64_t now_ns() const override;
  Id at(std::uint64_t at_ns, std::function<void()> callback) override;
  void cancel(Id id) override;
  void advance(std::uint64_t delta_ns);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvferry
