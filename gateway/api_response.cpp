#include "gateway/api_response.h"

#include <array>
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>
#include <boost/json/value_from.hpp>
#include <charconv>
#include <utility>

namespace kvferry::gateway {
namespace {

namespace json = boost::json;

std::string hex(std::uint64_t number) {
  std::array<char, 16> digits{};
  const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), number, 16).ptr;
  std::string text(digits.data(), end);
  return std::string(16 - text.size(), '0') + text;
}

std::string event(const json::value& value) { return "data: " + json::serialize(value) + "\n\n"; }

json::object usage_json(const GenerationUsage& usage, const std::string& codec,
                        const json::value& seed) {
  json::object ferry{{"codec", codec},
                     {"raw_bytes", usage.raw_bytes},
                     {"sent_bytes", usage.sent_bytes},
                     {"values", usage.values},
                     {"bits_per_value", usage.bits_per_value},
                     {"closed_bits_per_value", usage.closed_bits_per_value},
                     {"cached_tokens", usage.cached_tokens},
                     {"queue_ms", usage.queue_ms},
                     {"prefill_ms", usage.prefill_ms},
                     {"encode_ms", usage.encode_ms},
                     {"transfer_ms", usage.transfer_ms},
                     {"first_decode_ms", usage.first_decode_ms},
                     {"ttft_ms", usage.ttft_ms},
                     {"attempts", usage.attempts},
                     {"prefill", usage.remote_prefill ? "remote" : "local"},
                     {"seed", seed}};
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens},
          {"prompt_tokens_details", {{"cached_tokens", usage.cached_tokens}}},
          {"kvferry", std::move(ferry)}};
}

// As the client wrote it: seeds may be negative. A greedy answer has none.
json::value seed_json(bool sampled, std::uint64_t seed) {
  return sampled ? json::value(static_cast<std::int64_t>(seed)) : json::value(nullptr);
}

}  // namespace

ApiResponse::ApiResponse(Endpoint endpoint, const ApiRequest& request, std::string model,
                         std::uint64_t number, std::int64_t created_s)
    : endpoint_(endpoint),
      include_usage_(request.include_usage),
      return_token_ids_(request.return_token_ids),
      sampled_(request.sampled),
      codec_(request.generation.codec),
      seed_(request.generation.seed),
      model_(std::move(model)),
      id_((endpoint == Endpoint::kChat ? "chatcmpl-" : "cmpl-") + hex(number)),
      created_s_(created_s) {}

std::string ApiResponse::whole(std::string_view text, const GenerationOutcome& outcome) const {
  const bool chat = endpoint_ == Endpoint::kChat;
  json::object choice{
      {"index", 0}, {"logprobs", nullptr}, {"finish_reason", outcome.finish_reason}};
  if (chat) {
    choice["message"] = {{"role", "assistant"}, {"content", text}};
  } else {
    choice["text"] = text;
  }
  if (return_token_ids_) choice["token_ids"] = json::value_from(outcome.ids);
  return json::serialize(
      json::object{{"id", id_},
                   {"object", chat ? "chat.completion" : "text_completion"},
                   {"created", created_s_},
                   {"model", model_},
                   {"choices", json::array{std::move(choice)}},
                   {"usage", usage_json(outcome.usage, codec_, seed_json(sampled_, seed_))}});
}

std::string ApiResponse::chunk(std::string_view text, bool role, std::string_view finish_reason,
                               const std::vector<std::int32_t>* ids) const {
  const bool chat = endpoint_ == Endpoint::kChat;
  const json::value reason =
      finish_reason.empty() ? json::value(nullptr) : json::value(finish_reason);
  json::object choice{{"index", 0}, {"logprobs", nullptr}, {"finish_reason", reason}};
  if (!chat) {
    choice["text"] = text;
  } else {
    json::object delta;
    if (role) delta["role"] = "assistant";
    if (finish_reason.empty()) delta["content"] = text;
    choice["delta"] = std::move(delta);
  }
  if (ids != nullptr) choice["token_ids"] = json::value_from(*ids);
  json::object value{{"id", id_},
                     {"object", chat ? "chat.completion.chunk" : "text_completion"},
                     {"created", created_s_},
                     {"model", model_},
                     {"choices", json::array{std::move(choice)}}};
  if (include_usage_) value["usage"] = nullptr;
  return event(value);
}

std::string ApiResponse::opening() const {
  return endpoint_ == Endpoint::kChat ? chunk("", true, "") : std::string();
}

std::string ApiResponse::piece(std::string_view text) const { return chunk(text, false, ""); }

std::string ApiResponse::closing(const GenerationOutcome& outcome) const {
  std::string events =
      chunk("", false, outcome.finish_reason, return_token_ids_ ? &outcome.ids : nullptr);
  if (include_usage_) {
    const bool chat = endpoint_ == Endpoint::kChat;
    events += event(
        json::object{{"id", id_},
                     {"object", chat ? "chat.completion.chunk" : "text_completion"},
                     {"created", created_s_},
                     {"model", model_},
                     {"choices", json::array{}},
                     {"usage", usage_json(outcome.usage, codec_, seed_json(sampled_, seed_))}});
  }
  return events + "data: [DONE]\n\n";
}

std::string ApiResponse::failure(const ApiError& error) { return "data: " + error.json() + "\n\n"; }

std::string model_json(const std::string& model, std::uint32_t context, std::int64_t created_s) {
  return json::serialize(json::value{{"id", model},
                                     {"object", "model"},
                                     {"created", created_s},
                                     {"owned_by", "kvferry"},
                                     {"max_model_len", context}});
}

std::string models_json(const std::string& model, std::uint32_t context, std::int64_t created_s) {
  return "{\"object\":\"list\",\"data\":[" + model_json(model, context, created_s) + "]}";
}

}  // namespace kvferry::gateway
