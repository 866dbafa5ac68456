#include "gateway/api_answer.h"

#include <utility>

namespace kvferry::gateway {

ApiAnswer::ApiAnswer(std::shared_ptr<cluster::HttpExchange> exchange, ApiResponse response,
                     bool stream)
    : exchange_(std::move(exchange)), response_(std::move(response)), stream_(stream) {}

void ApiAnswer::begin_stream() {
  if (std::exchange(streaming_, true)) return;
  exchange_->begin_stream(200, "text/event-stream; charset=utf-8", {{"Cache-Control", "no-cache"}});
  exchange_->write(response_.opening());
}

void ApiAnswer::text(std::string_view piece) {
  if (!stream_) {
    whole_ += piece;
    return;
  }
  begin_stream();
  exchange_->write(response_.piece(piece));
}

void ApiAnswer::done(const GenerationOutcome& outcome) {
  if (!outcome.status.ok() && !streaming_) {
    return respond_error(*exchange_, error_of(outcome.status));
  }
  if (!stream_) {
    return exchange_->respond(200, "application/json", response_.whole(whole_, outcome));
  }
  begin_stream();
  exchange_->write(outcome.status.ok() ? response_.closing(outcome)
                                       : ApiResponse::failure(error_of(outcome.status)));
  exchange_->end_stream();
}

void respond_error(cluster::HttpExchange& exchange, const ApiError& error,
                   cluster::HttpHeaders headers) {
  if (error.retry_after_s > 0) {
    headers.emplace_back("Retry-After", std::to_string(error.retry_after_s));
  }
  exchange.respond(error.status, "application/json", error.json(), headers);
}

}  // namespace kvferry::gateway
