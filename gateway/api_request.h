// Bodies of /v1/completions and /v1/chat/completions, checked and turned into a Generation.
//
// Unknown fields are ignored, null is as if the field were not there, and a wrong type or range is
// a 400 that names the field. Fields of OpenAI's API that would change the answer and that kvferry
// does not have (tools, suffix, ...) are refused unless they say what happens anyway.
// Thread contract: pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "codec/codec_set.h"
#include "gateway/api_error.h"
#include "gateway/endpoint.h"
#include "gateway/generation.h"
#include "gateway/served_model.h"

namespace kvferry::gateway {

inline constexpr std::size_t kMaxPrompts = 128;     // of a list in one request
inline constexpr std::size_t kMaxLogitBias = 1024;  // tokens in logit_bias
inline constexpr std::size_t kMaxStopIds = 64;      // of stop_token_ids

struct ApiRequest {
  std::vector<Generation> generations;  // one for each prompt, alike but for prompts and seeds
  std::vector<std::string> echo;        // the prompts' texts when they are to be repeated
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
