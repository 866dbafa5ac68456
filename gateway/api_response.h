// Answers of /v1/completions and /v1/chat/completions, whole and as chunks of a stream.
// Thread contract: pure functions of what they are given.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "gateway/api_request.h"
#include "gateway/generation.h"

namespace kvferry::gateway {

class ApiResponse {
 public:
  // number: names the request; it becomes "cmpl-<hex>" or "chatcmpl-<hex>".
  ApiResponse(Endpoint endpoint, const ApiRequest& request, std::string model, std::uint64_t number,
              std::int64_t created_s);

  // The JSON of an answer that is not streamed.
  std::string whole(std::string_view text, const GenerationOutcome& outcome) const;

  // Events of a stream, "data: ...\n\n" each: what opens it (a chat's role), text, and what closes
  // it: the finish reason, the usage if it was asked for, and [DONE].
  std::string opening() const;
  std::string piece(std::string_view text) const;
  std::string closing(const GenerationOutcome& outcome) const;
  // An error after the first token: the client must be able to tell it from an end.
  static std::string failure(const ApiError& error);

 private:
  std::string chunk(std::string_view text, bool role, std::string_view finish_reason,
                    const std::vector<std::int32_t>* ids = nullptr) const;

  Endpoint endpoint_;
  bool include_usage_;
  bool return_token_ids_;
  bool sampled_;
  std::string codec_;
  std::uint64_t seed_;
  std::string model_;
  std::string id_;
  std::int64_t created_s_;
};

// The model as /v1/models/NAME has it, and {"object":"list","data":[...]} of /v1/models.
std::string model_json(const std::string& model, std::uint32_t context, std::int64_t created_s);
std::string models_json(const std::string& model, std::uint32_t context, std::int64_t created_s);

}  // namespace kvferry::gateway
