// /tokenize and /detokenize, as vLLM has them.
// Thread contract: pure functions.
#pragma once

#include <string>
#include <string_view>

#include "gateway/api_error.h"
#include "gateway/served_model.h"

namespace kvferry::gateway {

// {"prompt": text, "add_special_tokens": true, "split_special_tokens": true} or
// {"messages": [...]} becomes {"count", "max_model_len", "tokens", "token_strs"}. The last are the
// tokens as tokenizer.json writes them, with "return_token_strs": true, else null. A prompt that is
// too long for the model is tokenized all the same.
ApiResult<std::string> answer_tokenize(std::string_view body, const ServedModel& model);

// {"tokens": [ids]} becomes {"prompt": text}. What is not UTF-8 becomes U+FFFD.
ApiResult<std::string> answer_detokenize(std::string_view body, const ServedModel& model);

}  // namespace kvferry::gateway
