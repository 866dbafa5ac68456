// The gateway: OpenAI's API in front, prefill and decode workers behind, the scheduler inside.
//
// Thread contract: everything on the reactor's thread, the one that runs the io_context. A thread
// of its own reads long bodies (gateway/text_thread.h).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "base/clock.h"
#include "base/metrics.h"
#include "base/status.h"
#include "gateway/gateway_config.h"

namespace kvferry::gateway {

class Gateway {
 public:
  // Loads the model's tokenizer, listens, and begins to connect to the workers. io, timers and
  // metrics outlive the gateway. Errors say what to do: kNotFound and kInvalidArgument for model
  // and configuration, kUnavailable for a port in use.
  static Result<std::unique_ptr<Gateway>> start(boost::asio::io_context& io, Timers& timers,
                                                Metrics& metrics, const GatewayConfig& config);
  virtual ~Gateway() = default;  // stops

  virtual std::uint16_t port() const = 0;
  // Requests that are not finished.
  virtual std::size_t active() const = 0;
  // Not ready any more, accepts nothing new, and calls back once what is running has ended.
  virtual void drain(std::function<void()> drained) = 0;
  // Cancels everything at the workers and closes. Nothing happens afterwards.
  virtual void stop() = 0;
};

}  // namespace kvferry::gateway
