#include "decode/decode_messages.h"

#include "codec/describe.h"

namespace kvferry::decode {
namespace {

template <class Message>
void address(const DecodeRequest& request, Message& message) {
  message.set_request_id(request.identity.request_id);
  message.set_transfer_id(request.identity.transfer_id);
  message.set_attempt(request.plan.attempt());
}

template <class Message>
void set_top(const std::vector<model::TokenLogprob>& top, Message& message) {
  for (const auto& [id, logprob] : top) {
    proto::TokenLogprob& entry = *message.add_top();
    entry.set_id(id);
    entry.set_logprob(logprob);
  }
}

void fill_usage(const DecodeRequest& request, proto::KvUsage& usage) {
  const codec::KvGeometry& geometry = request.identity.geometry;
  const codec::Codec& codec = *request.identity.codec;
  const double values = static_cast<double>(geometry.values_per_token()) * request.prompt();
  const codec::BlockLayout layout(codec, geometry);
  const std::uint32_t closed = request.prompt() / codec.tile_tokens();
  const std::uint32_t open = request.prompt() % codec.tile_tokens();
  std::size_t bytes = request.stats.wire_bytes;
  if (!request.remote_prefill) {  // what the prompt occupies here
    for (std::uint32_t tile = 0; tile < closed; ++tile) bytes += layout.block_bytes(tile);
    if (open > 0) bytes += geometry.layers * codec.segment_bytes(geometry, 0, closed, open);
  }
  auto ms = [](std::uint64_t ns) { return static_cast<double>(ns) * 1e-6; };
  usage.set_values(static_cast<std::uint64_t>(values));
  usage.set_raw_bytes(static_cast<std::uint64_t>(values) * 2);
  usage.set_sent_bytes(request.stats.wire_bytes);
  usage.set_bits_per_value(static_cast<double>(bytes) * 8 / values);
  usage.set_closed_bits_per_value(codec::closed_bits_per_value(codec, geometry));
  usage.set_queue_ms(ms(request.stats.prefill.queue_ns));
  usage.set_prefill_ms(ms(request.stats.prefill.prefill_ns));
  usage.set_encode_ms(ms(request.stats.prefill.encode_ns));
  usage.set_transfer_ms(ms(request.stats.last_data_ns - request.stats.first_data_ns));
  usage.set_first_decode_ms(ms(request.first_decode_ns));
  usage.set_remote_prefill(request.remote_prefill);
}

}  // namespace

proto::Envelope token_message(const DecodeRequest& request, const Choice& choice,
                              const ChosenToken& chosen) {
  proto::Envelope envelope;
  proto::Token& token = *envelope.mutable_token();
  address(request, token);
  token.set_choice(choice.index);
  token.set_position(request.prompt() + choice.generated);
  token.set_id(chosen.id);
  if (request.plan.has_logprobs()) {
    token.set_logprob(chosen.logprob);
    set_top(chosen.top, token);
  }
  if (choice.generated < 2) fill_usage(request, *token.mutable_usage());
  return envelope;
}

proto::Envelope finished_message(const DecodeRequest& request, const Choice& choice,
                                 const char* reason) {
  proto::Envelope envelope;
  proto::Finished& finished = *envelope.mutable_finished();
  address(request, finished);
  finished.set_choice(choice.index);
  finished.set_reason(reason);
  fill_usage(request, *finished.mutable_usage());
  return envelope;
}

proto::Envelope prompt_logprobs_message(const DecodeRequest& request, std::uint32_t first,
                                        std::uint32_t count, std::span<const float> logits) {
  proto::Envelope envelope;
  proto::PromptLogprobs& message = *envelope.mutable_prompt_logprobs();
  address(request, message);
  message.set_position(first + 1);
  const std::size_t vocab = logits.size() / count;
  for (std::uint32_t i = 0; i < count && first + i + 1 < request.prompt(); ++i) {
    const std::span<const float> row = logits.subspan(i * vocab, vocab);
    proto::PromptLogprobs::Entry& entry = *message.add_entries();
    entry.set_logprob(model::logprob(row, request.ids[first + i + 1]));
    set_top(model::top_logprobs(row, request.plan.logprobs()), entry);
  }
  return envelope;
}

}  // namespace kvferry::decode
