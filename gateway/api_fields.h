// What several endpoints read alike from a request's body.
// Internal to gateway/. Thread contract: pure functions.
#pragma once

#include <boost/json/object.hpp>
#include <cstdint>
#include <string>
#include <string_view>

#include "gateway/api_error.h"
#include "gateway/json_fields.h"
#include "gateway/served_model.h"
#include "text/tokenizer.h"

namespace kvferry::gateway {

// The JSON object that a body must be.
ApiResult<boost::json::object> parse_body(std::string_view body);

// 'model' may be missing; the name of another model is model_not_found.
void read_model(JsonFields& fields, const ServedModel& model);

// A request's deadline in ns from its arrival: what the header `timeout` says in seconds, but no
// more than `most_ns`, which is also what an absent (empty) header means.
ApiResult<std::uint64_t> read_timeout(std::string_view header, std::uint64_t most_ns);

// 'messages' through the model's chat template, with 'add_generation_prompt' (true) and
// 'chat_template_kwargs', of which there is 'enable_thinking'; an empty one when that failed.
// 'split_special_tokens' false and 'add_special_tokens' true are refused.
text::ChatPrompt read_chat_prompt(JsonFields& fields, const ServedModel& model);

// How a prompt of text becomes ids: 'add_special_tokens' (true: BOS first, where the checkpoint has
// it so) and 'split_special_tokens' (true: special tokens that are written out are text; false:
// they become their ids).
text::Tokenizer::EncodeOptions read_encode_options(JsonFields& fields, const ServedModel& model);

}  // namespace kvferry::gateway
