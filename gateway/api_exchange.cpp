#include "gateway/api_exchange.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <utility>

#include "base/log.h"

namespace kvferry::gateway {

using cluster::HttpHeaders;

namespace {

constexpr std::size_t kMaxRequestIdBytes = 128;

}  // namespace

std::string request_name(std::string_view given, std::uint64_t number) {
  const bool usable =
      !given.empty() && given.size() <= kMaxRequestIdBytes &&
      std::all_of(given.begin(), given.end(), [](char c) { return c > ' ' && c <= '~'; });
  if (usable) return std::string(given);
  std::array<char, 24> name{};
  std::snprintf(name.data(), name.size(), "req-%016llx", static_cast<unsigned long long>(number));
  return name.data();
}

ApiExchange::ApiExchange(std::shared_ptr<cluster::HttpExchange> inner, std::uint64_t number,
                         std::string endpoint, const Timers& timers, GatewayMetrics& metrics)
    : inner_(std::move(inner)),
      number_(number),
      name_(request_name(inner_->request().header("x-request-id"), number)),
      endpoint_(std::move(endpoint)),
      timers_(timers),
      metrics_(metrics),
      arrived_ns_(timers.now_ns()) {}

ApiExchange::~ApiExchange() {
  // Not answered to its end: the client is gone, or the gateway stops.
  const std::string status = complete_ ? std::to_string(status_) : "gone";
  metrics_.answered(endpoint_, status);
  const std::uint64_t took_ms = (timers_.now_ns() - arrived_ns_) / kMillisecond;
  log_info("gateway",
           name_ + " " + endpoint_ + " " + status + " " + std::to_string(took_ms) + " ms" + notes_);
}

void ApiExchange::note(std::string_view text) {
  notes_ += ' ';
  notes_ += text;
}

HttpHeaders ApiExchange::named(const HttpHeaders& headers, int status) {
  if (status_ == 0) status_ = status;
  HttpHeaders all = headers;
  all.emplace_back("X-Request-Id", name_);
  return all;
}

void ApiExchange::respond(int status, std::string_view content_type, std::string_view body,
                          const HttpHeaders& headers) {
  complete_ = inner_->open();
  inner_->respond(status, content_type, body, named(headers, status));
}

void ApiExchange::begin_stream(int status, std::string_view content_type,
                               const HttpHeaders& headers) {
  inner_->begin_stream(status, content_type, named(headers, status));
}

void ApiExchange::end_stream() {
  complete_ = inner_->open();
  inner_->end_stream();
}

}  // namespace kvferry::gateway
