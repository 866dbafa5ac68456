// Bodies of /v1/completions and /v1/chat/completions, checked and turned into a Generation.
//
// Unknown fields are ignored, null is as if the field were not there, and a wrong type or range is
// a 400 that names the field. Fields of OpenAI's API that would change the answer and that kvferry
// does not have (tools, penalties, ...) are refused unless they say what happens anyway.
// Thread contract: pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "codec/codec_set.h"
#include "gateway/api_error.h"
#include "gateway/generation.h"
#include "gateway/served_model.h"

namespace kvferry::gateway {

enum class Endpoint : std::uint8_t { kCompletions, kChat };

struct ApiRequest {
  Generation generation;
  bool stream = false;
  bool include_usage = false;
  bool return_token_ids = false;  // as vLLM has it: the answer's ids beside its text
  bool sampled = false;           // otherwise greedy, and the seed means nothing
};

struct ApiContext {
  const ServedModel* model = nullptr;
  const codec::CodecSet* codecs = nullptr;
  std::uint32_t default_max_tokens = 512;
  std::uint64_t timeout_ns = 0;
};

// codec_header: the value of X-KV-Codec or empty; the body's kv_codec comes first.
ApiResult<ApiRequest> parse_api_request(Endpoint endpoint, std::string_view body,
                                        std::string_view codec_header, const ApiContext& context);

}  // namespace kvferry::gateway
