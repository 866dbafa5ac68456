#include "gateway/api_answer.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace kvferry::gateway {

namespace {

// Amounts add up over the prompts of a request; of times the longest counts.
void add_usage(const GenerationUsage& one, GenerationUsage& all) {
  const double bits = all.bits_per_value * static_cast<double>(all.values) +
                      one.bits_per_value * static_cast<double>(one.values);
  all.prompt_tokens += one.prompt_tokens;
  all.completion_tokens += one.completion_tokens;
  all.cached_tokens += one.cached_tokens;
  all.attempts += one.attempts;
  all.values += one.values;
  all.raw_bytes += one.raw_bytes;
  all.sent_bytes += one.sent_bytes;
  all.bits_per_value = all.values > 0 ? bits / static_cast<double>(all.values) : 0;
  all.remote_prefill = all.remote_prefill || one.remote_prefill;
  for (double GenerationUsage::*most :
       {&GenerationUsage::closed_bits_per_value, &GenerationUsage::queue_ms,
        &GenerationUsage::prefill_ms, &GenerationUsage::encode_ms, &GenerationUsage::transfer_ms,
        &GenerationUsage::first_decode_ms, &GenerationUsage::ttft_ms}) {
    all.*most = std::max(all.*most, one.*most);
  }
}

}  // namespace

ApiAnswer::ApiAnswer(std::shared_ptr<cluster::HttpExchange> exchange, ApiResponse response,
                     const ApiRequest& request, std::function<void(const GenerationUsage&)> ended)
    : exchange_(std::move(exchange)),
      response_(std::move(response)),
      ended_(std::move(ended)),
      stream_(request.stream),
      per_prompt_(request.generations.front().choices),
      echo_(request.echo),
      prompt_logprobs_(request.generations.size()),
      choices_(request.generations.size() * per_prompt_),
      open_(request.generations.size()) {}

GenerationSink ApiAnswer::sink(std::uint32_t prompt) {
  GenerationSink sink;
  const auto self = shared_from_this();
  sink.prompt = [self, prompt](std::vector<TokenLogprobs> tokens) {
    self->prompt_logprobs_[prompt] = std::move(tokens);
  };
  sink.piece = [self, prompt](GenerationPiece piece) {
    const std::uint32_t index = prompt * self->per_prompt_ + piece.choice;
    self->piece(index, std::move(piece));
  };
  sink.done = [self](const GenerationOutcome& outcome) { self->done(outcome); };
  return sink;
}

void ApiAnswer::begin_stream() {
  if (std::exchange(streaming_, true)) return;
  exchange_->begin_stream(200, "text/event-stream; charset=utf-8", {{"Cache-Control", "no-cache"}});
}

void ApiAnswer::piece(std::uint32_t index, GenerationPiece piece) {
  if (!std::exchange(choices_[index].begun, true)) {
    if (stream_) {
      begin_stream();
      exchange_->write(response_.opening(index));
    }
    const std::uint32_t prompt = index / per_prompt_;
    if (!echo_.empty()) write(index, {0, echo_[prompt], prompt_logprobs_[prompt], "", {}});
  }
  write(index, std::move(piece));
}

void ApiAnswer::write(std::uint32_t index, GenerationPiece piece) {
  if (stream_) return exchange_->write(response_.piece(index, piece));
  GenerationPiece& whole = choices_[index].whole;
  whole.text += piece.text;
  whole.tokens.insert(whole.tokens.end(), std::make_move_iterator(piece.tokens.begin()),
                      std::make_move_iterator(piece.tokens.end()));
  whole.finish_reason = std::move(piece.finish_reason);
  whole.ids = std::move(piece.ids);
}

void ApiAnswer::done(const GenerationOutcome& outcome) {
  if (over_) return;
  add_usage(outcome.usage, usage_);
  if (outcome.status.ok() && --open_ > 0) return;
  over_ = true;
  ended_(usage_);
  if (!outcome.status.ok() && !streaming_) {
    return respond_error(*exchange_, error_of(outcome.status));
  }
  if (!stream_) {
    std::vector<GenerationPiece> choices;
    for (Choice& choice : choices_) choices.push_back(std::move(choice.whole));
    return exchange_->respond(200, "application/json", response_.whole(choices, usage_));
  }
  begin_stream();
  exchange_->write(outcome.status.ok() ? response_.closing(usage_)
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
