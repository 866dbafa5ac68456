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

// As the client wrote it: seeds may be negative. A greedy answer has none, and a list of prompts
// that was given seeds has one for each.
json::value seeds_json(const ApiRequest& request) {
  if (!request.sampled) return nullptr;
  json::array seeds;
  bool alike = true;
  for (const Generation& generation : request.generations) {
    alike = alike && generation.seed == request.generations.front().seed;
    seeds.emplace_back(static_cast<std::int64_t>(generation.seed));
  }
  return alike ? seeds.front() : json::value(std::move(seeds));
}

json::value string_or_null(const std::string& text) {
  return text.empty() ? json::value(nullptr) : json::value(text);
}

}  // namespace

ApiResponse::ApiResponse(Endpoint endpoint, const ApiRequest& request, std::string model,
                         std::shared_ptr<const text::Tokenizer> tokenizer, std::uint64_t number,
                         std::int64_t created_s)
    : endpoint_(endpoint),
      include_usage_(request.include_usage),
      return_token_ids_(request.return_token_ids),
      wants_logprobs_(request.generations.front().logprobs.has_value()),
      seed_(seeds_json(request)),
      codec_(request.generations.front().codec),
      model_(std::move(model)),
      id_((endpoint == Endpoint::kChat ? "chatcmpl-" : "cmpl-") + hex(number)),
      created_s_(created_s),
      logprobs_(request.generations.size() * request.generations.front().choices,
                LogprobsJson(endpoint, std::move(tokenizer),
                             request.echo.empty() ? text::Detokenizer::Before::kText
                                                  : text::Detokenizer::Before::kNothing)) {}

json::object ApiResponse::head(bool chunk) const {
  const bool chat = endpoint_ == Endpoint::kChat;
  const char* object = !chat   ? "text_completion"
                       : chunk ? "chat.completion.chunk"
                               : "chat.completion";
  return {{"id", id_}, {"object", object}, {"created", created_s_}, {"model", model_}};
}

json::value ApiResponse::logprobs(std::uint32_t index, const std::vector<TokenLogprobs>& tokens) {
  return wants_logprobs_ ? logprobs_[index].write(tokens) : json::value(nullptr);
}

std::string ApiResponse::whole(const std::vector<GenerationPiece>& choices,
                               const GenerationUsage& usage) {
  json::array list;
  for (std::uint32_t index = 0; index < choices.size(); ++index) {
    const GenerationPiece& given = choices[index];
    json::object choice{{"index", index},
                        {"logprobs", logprobs(index, given.tokens)},
                        {"finish_reason", given.finish_reason}};
    if (endpoint_ == Endpoint::kChat) {
      choice["message"] = {{"role", "assistant"}, {"content", given.text}};
    } else {
      choice["text"] = given.text;
    }
    if (return_token_ids_) choice["token_ids"] = json::value_from(given.ids);
    list.emplace_back(std::move(choice));
  }
  json::object answer = head(false);
  answer["choices"] = std::move(list);
  answer["usage"] = usage_json(usage, codec_, seed_);
  return json::serialize(answer);
}

std::string ApiResponse::event(json::object choice) const {
  json::object value = head(true);
  value["choices"] = json::array{std::move(choice)};
  if (include_usage_) value["usage"] = nullptr;
  return "data: " + json::serialize(value) + "\n\n";
}

std::string ApiResponse::opening(std::uint32_t index) {
  if (endpoint_ != Endpoint::kChat) return "";
  return event({{"index", index},
                {"logprobs", nullptr},
                {"finish_reason", nullptr},
                {"delta", {{"role", "assistant"}, {"content", ""}}}});
}

std::string ApiResponse::piece(std::uint32_t index, const GenerationPiece& piece) {
  const bool last = !piece.finish_reason.empty();
  json::object choice{
      {"index", index},
      {"logprobs", piece.tokens.empty() ? json::value(nullptr) : logprobs(index, piece.tokens)},
      {"finish_reason", string_or_null(piece.finish_reason)}};
  if (endpoint_ == Endpoint::kCompletions) {
    choice["text"] = piece.text;
  } else {
    choice["delta"] = last ? json::object{} : json::object{{"content", piece.text}};
  }
  if (last && return_token_ids_) choice["token_ids"] = json::value_from(piece.ids);
  return event(std::move(choice));
}

std::string ApiResponse::closing(const GenerationUsage& usage) const {
  std::string events;
  if (include_usage_) {
    json::object value = head(true);
    value["choices"] = json::array{};
    value["usage"] = usage_json(usage, codec_, seed_);
    events = "data: " + json::serialize(value) + "\n\n";
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
