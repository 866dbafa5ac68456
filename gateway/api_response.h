// Answers of /v1/completions and /v1/chat/completions, whole and as chunks of a stream. Choices are
// numbered as OpenAI does: prompt by prompt, the n choices of each.
// Thread contract: one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "gateway/api_logprobs.h"
#include "gateway/api_request.h"
#include "gateway/generation.h"
#include "text/tokenizer.h"

namespace kvferry::gateway {

class ApiResponse {
 public:
  // number: names the request; it becomes "cmpl-<hex>" or "chatcmpl-<hex>".
  ApiResponse(Endpoint endpoint, const ApiRequest& request, std::string model,
              std::shared_ptr<const text::Tokenizer> tokenizer, std::uint64_t number,
              std::int64_t created_s);

  // The JSON of an answer that is not streamed: each choice as one piece that has everything.
  std::string whole(const std::vector<GenerationPiece>& choices, const GenerationUsage& usage);

  // Events of a stream, "data: ...\n\n" each: what opens a choice (a chat's role), its text, and
  // its end; then what closes the answer: the usage if it was asked for, and [DONE].
  std::string opening(std::uint32_t index);
  std::string piece(std::uint32_t index, const GenerationPiece& piece);
  std::string closing(const GenerationUsage& usage) const;
  // An error after the first token: the client must be able to tell it from an end.
  static std::string failure(const ApiError& error);

 private:
  boost::json::value logprobs(std::uint32_t index, const std::vector<TokenLogprobs>& tokens);
  boost::json::object head(bool chunk) const;
  std::string event(boost::json::object choice) const;

  Endpoint endpoint_;
  bool include_usage_;
  bool return_token_ids_;
  bool wants_logprobs_;
  boost::json::value seed_;
  std::string codec_;
  std::string model_;
  std::string id_;
  std::int64_t created_s_;
  std::vector<LogprobsJson> logprobs_;  // by index
};

// The model as /v1/models/NAME has it, and {"object":"list","data":[...]} of /v1/models.
std::string model_json(const std::string& model, std::uint32_t context, std::int64_t created_s);
std::string models_json(const std::string& model, std::uint32_t context, std::int64_t created_s);

}  // namespace kvferry::gateway
