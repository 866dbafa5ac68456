#include "gateway/api_request.h"

#include <algorithm>
#include <boost/json/value.hpp>
#include <limits>

#include "base/hash.h"
#include "gateway/api_fields.h"
#include "gateway/json_fields.h"
#include "text/stop_buffer.h"

namespace kvferry::gateway {
namespace {

namespace json = boost::json;

constexpr std::int64_t kAny = std::numeric_limits<std::int64_t>::max();
// Seeds that kvferry gives fit a JSON number of every language (2^53).
constexpr int kSeedShift = 64 - 53;

bool is_neutral(const json::value& value) {
  if (value.is_bool()) return !value.get_bool();
  if (value.is_number()) return value.to_number<double>() == 0;
  if (value.is_string()) return value.get_string().empty() || value.get_string() == "none";
  if (value.is_array()) return value.get_array().empty();
  return value.is_null() || (value.is_object() && value.get_object().empty());
}

void refuse_unsupported(JsonFields& fields) {
  for (const char* key :
       {"echo", "suffix", "logprobs", "top_logprobs", "logit_bias", "presence_penalty",
        "frequency_penalty", "tools", "tool_choice", "functions", "function_call", "min_p"}) {
    const json::value* value = fields.find(key);
    if (value != nullptr && !is_neutral(*value)) {
      fields.fail(key, std::string("'") + key + "' is not supported");
    }
  }
  for (const char* key : {"n", "best_of"}) {
    if (const auto count = fields.integer(key, 1, kAny); count && *count != 1) {
      fields.fail(key, std::string("'") + key + "' must be 1");
    }
  }
  if (const json::value* format = fields.find("response_format")) {
    const json::value* type =
        format->is_object() ? format->get_object().if_contains("type") : nullptr;
    if (type == nullptr || !type->is_string() || type->get_string() != "text") {
      fields.fail("response_format",
                  "'response_format' other than {\"type\":\"text\"} is not "
                  "supported");
    }
  }
}

ApiError too_long(const ApiContext& context, const std::string& how_many, const char* param) {
  return bad_request("This model's maximum context length is " +
                         std::to_string(context.model->context) +
                         " tokens, of which at least one must be left to generate. However, your "
                         "prompt has " +
                         how_many + " tokens. Please shorten it.",
                     param, "context_length_exceeded");
}

void encode_text(JsonFields& fields, std::string_view text,
                 const text::Tokenizer::EncodeOptions& options, const ApiContext& context,
                 const char* param, std::vector<std::int32_t>& ids) {
  const ServedModel& model = *context.model;
  // Without tokenizing what cannot fit: every token stands for at most so many bytes.
  const std::size_t least = text.size() / model.tokenizer->longest_token_bytes();
  if (least > model.context) {
    return fields.fail(too_long(context, "at least " + std::to_string(least), param));
  }
  auto encoded = model.tokenizer->encode(text, options);
  if (!encoded.ok()) return fields.fail(param, encoded.status().message());
  ids = std::move(*encoded);
}

void read_ids(JsonFields& fields, const json::array& list, const ApiContext& context,
              std::vector<std::int32_t>& ids) {
  if (list.size() >= context.model->context) {
    return fields.fail(too_long(context, std::to_string(list.size()), "prompt"));
  }
  for (const json::value& id : list) {
    if (!id.is_int64() || id.get_int64() < 0 || id.get_int64() >= context.model->vocab) {
      return fields.fail("prompt", "token ids in 'prompt' must be whole numbers from 0 to " +
                                       std::to_string(context.model->vocab - 1));
    }
    ids.push_back(static_cast<std::int32_t>(id.get_int64()));
  }
}

// A string, an array of ids, or a list with one of these.
void read_prompt(JsonFields& fields, const ApiContext& context, std::vector<std::int32_t>& ids) {
  const json::value* prompt = fields.find("prompt");
  if (prompt == nullptr) return fields.fail("prompt", "'prompt' is missing");
  if (prompt->is_array() && !prompt->get_array().empty() &&
      !prompt->get_array().front().is_number()) {
    if (prompt->get_array().size() != 1) {
      return fields.fail("prompt", "'prompt' may hold one prompt a request");
    }
    prompt = &prompt->get_array().front();
  }
  if (prompt->is_string()) {
    encode_text(fields, prompt->get_string(), {.add_bos = context.model->tokenizer->add_bos()},
                context, "prompt", ids);
  } else if (prompt->is_array()) {
    read_ids(fields, prompt->get_array(), context, ids);
  } else {
    return fields.fail("prompt", "'prompt' must be a string or an array of token ids");
  }
  if (fields.ok() && ids.empty()) fields.fail("prompt", "'prompt' must not be empty");
}

void read_messages(JsonFields& fields, const ApiContext& context, std::vector<std::int32_t>& ids) {
  const text::ChatPrompt prompt = read_chat_prompt(fields, *context.model);
  if (!fields.ok()) return;
  encode_text(fields, prompt.text, prompt.encode_options(), context, "messages", ids);
}

void read_stop(JsonFields& fields, std::vector<std::string>& stop) {
  const json::value* value = fields.find("stop");
  if (value == nullptr) return;
  if (value->is_string()) {
    stop.emplace_back(value->get_string());
  } else if (value->is_array()) {
    for (const json::value& text : value->get_array()) {
      if (!text.is_string()) return fields.fail("stop", "'stop' must hold strings");
      stop.emplace_back(text.get_string());
    }
  } else {
    return fields.fail("stop", "'stop' must be a string or a list of strings");
  }
  const auto checked = text::StopBuffer::make(stop);
  if (!checked.ok()) fields.fail("stop", "'stop': " + checked.status().message());
}

void read_sampling(JsonFields& fields, const ServedModel& model, ApiRequest& request) {
  Generation& generation = request.generation;
  generation.temperature = static_cast<float>(
      fields.number("temperature", 0, 2, false).value_or(static_cast<double>(model.temperature)));
  generation.top_p = static_cast<float>(
      fields.number("top_p", 0, 1, true).value_or(static_cast<double>(model.top_p)));
  const std::int64_t top_k = fields.integer("top_k", -1, 1 << 30).value_or(model.top_k);
  generation.top_k = static_cast<std::uint32_t>(std::max<std::int64_t>(0, top_k));
  request.sampled = generation.temperature > 0;
  const auto seed = fields.integer("seed", std::numeric_limits<std::int64_t>::min(), kAny);
  generation.seed = seed ? static_cast<std::uint64_t>(*seed) : fresh_id() >> kSeedShift;
}

void read_max_tokens(JsonFields& fields, Endpoint endpoint, const ApiContext& context,
                     Generation& generation) {
  std::optional<std::int64_t> wanted;
  if (endpoint == Endpoint::kChat) wanted = fields.integer("max_completion_tokens", 1, kAny);
  const auto older = fields.integer("max_tokens", 1, kAny);
  if (!wanted) wanted = older;
  if (!fields.ok()) return;
  const std::size_t length = generation.prompt.size();
  if (length >= context.model->context) {
    const char* param = endpoint == Endpoint::kChat ? "messages" : "prompt";
    return fields.fail(too_long(context, std::to_string(length), param));
  }
  const auto room = static_cast<std::int64_t>(context.model->context - length);
  generation.max_tokens = static_cast<std::uint32_t>(
      std::min(room, wanted.value_or(std::int64_t{context.default_max_tokens})));
}

void read_stream(JsonFields& fields, ApiRequest& request) {
  request.stream = fields.boolean("stream").value_or(false);
  request.return_token_ids = fields.boolean("return_token_ids").value_or(false);
  const json::value* options = fields.find("stream_options");
  if (options == nullptr) return;
  if (!options->is_object()) {
    return fields.fail("stream_options", "'stream_options' must be an object");
  }
  if (!request.stream) {
    return fields.fail("stream_options", "'stream_options' is only allowed with 'stream': true");
  }
  JsonFields inner(options->get_object());
  request.include_usage = inner.boolean("include_usage").value_or(false);
  if (!inner.ok()) {
    fields.fail("stream_options.include_usage",
                "'stream_options.include_usage' must be true or false");
  }
}

void read_codec(JsonFields& fields, std::string_view header, const ApiContext& context,
                Generation& generation) {
  const std::string spec = fields.string("kv_codec").value_or(std::string(header));
  if (!fields.ok()) return;
  const auto codec = context.codecs->find(spec);
  if (codec.ok()) {
    generation.codec = (*codec)->spec();
    return;
  }
  std::string message = codec.status().message();
  if (message.find("allowed are") == std::string::npos) {
    message += "; allowed are: ";
    for (const std::string& allowed : context.codecs->specs()) message += allowed + "; ";
    message.erase(message.size() - 2);
  }
  fields.fail(bad_request(std::move(message), "kv_codec", "unknown_codec"));
}

}  // namespace

ApiResult<ApiRequest> parse_api_request(Endpoint endpoint, std::string_view body,
                                        std::string_view codec_header, const ApiContext& context) {
  const auto read = parse_body(body);
  if (const auto* error = std::get_if<ApiError>(&read)) return *error;
  JsonFields fields(std::get<json::object>(read));
  ApiRequest request;
  Generation& generation = request.generation;
  read_model(fields, *context.model);
  refuse_unsupported(fields);
  read_codec(fields, codec_header, context, generation);
  read_stream(fields, request);
  read_stop(fields, generation.stop);
  read_sampling(fields, *context.model, request);
  if (fields.ok()) {
    if (endpoint == Endpoint::kChat) {
      read_messages(fields, context, generation.prompt);
    } else {
      read_prompt(fields, context, generation.prompt);
    }
  }
  if (fields.ok()) read_max_tokens(fields, endpoint, context, generation);
  if (!fields.ok()) return fields.error();
  generation.stop_ids = context.model->stop_ids;
  generation.timeout_ns = context.timeout_ns;
  return request;
}

}  // namespace kvferry::gateway
