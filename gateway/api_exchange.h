// One request of the API from its arrival to the end of its answer: every answer carries its name
// as X-Request-Id and is counted, and one line of the log says how it went.
// Thread contract: the reactor's thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "cluster/http_server.h"
#include "gateway/gateway_metrics.h"

namespace kvferry::gateway {

// What the client calls its request, if it can be sent back and logged (up to 128 printable ASCII
// characters without spaces); else "req-" and 16 hexadecimal digits of `number`.
std::string request_name(std::string_view given, std::uint64_t number);

class ApiExchange : public cluster::HttpExchange {
 public:
  // number: its own among all requests; the name comes from it unless the client gives one.
  // endpoint: of a fixed set, for the log and the metric's label. timers and metrics outlive it.
  ApiExchange(std::shared_ptr<cluster::HttpExchange> inner, std::uint64_t number,
              std::string endpoint, const Timers& timers, GatewayMetrics& metrics);
  ~ApiExchange() override;

  std::uint64_t number() const { return number_; }
  const std::string& name() const { return name_; }
  // Adds to the log's line, as " text".
  void note(std::string_view text);
  // Kept until the exchange is over.
  void hold(std::shared_ptr<const void> permit) { permit_ = std::move(permit); }

  const cluster::HttpRequest& request() const override { return inner_->request(); }
  void respond(int status, std::string_view content_type, std::string_view body,
               const cluster::HttpHeaders& headers = {}) override;
  void begin_stream(int status, std::string_view content_type,
                    const cluster::HttpHeaders& headers = {}) override;
  void write(std::string_view bytes) override { inner_->write(bytes); }
  void end_stream() override;
  bool open() const override { return inner_->open(); }
  void on_gone(std::function<void(const Status&)> gone) override {
    inner_->on_gone(std::move(gone));
  }

 private:
  cluster::HttpHeaders named(const cluster::HttpHeaders& headers, int status);

  std::shared_ptr<cluster::HttpExchange> inner_;
  std::uint64_t number_;
  std::string name_;
  std::string endpoint_;
  const Timers& timers_;
  GatewayMetrics& metrics_;
  std::shared_ptr<const void> permit_;
  std::uint64_t arrived_ns_;
  int status_ = 0;         // 0: not answered
  bool complete_ = false;  // the answer was given to its end
  std::string notes_;
};

}  // namespace kvferry::gateway
