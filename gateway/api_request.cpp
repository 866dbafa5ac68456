#include "gateway/api_request.h"

#include <algorithm>
#include <boost/json/value.hpp>
#include <charconv>
#include <cmath>
#include <limits>
#include <optional>

#include "base/hash.h"
#include "cluster/plan_limits.h"
#include "gateway/api_fields.h"
#include "gateway/json_fields.h"
#include "gateway/unsupported_fields.h"
#include "text/detokenizer.h"
#include "text/stop_buffer.h"

namespace kvferry::gateway {
namespace {

namespace json = boost::json;

constexpr std::int64_t kAny = std::numeric_limits<std::int64_t>::max();
// Seeds that kvferry gives fit a JSON number of every language (2^53).
constexpr int kSeedShift = 64 - 53;

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

struct Prompt {
  std::vector<std::int32_t> ids;
  std::string text;  // empty: given as ids
};

std::string text_of(const Prompt& prompt, const ServedModel& model) {
  if (!prompt.text.empty()) return prompt.text;
  return text::Detokenizer::decode(*model.tokenizer, prompt.ids, text::SpecialTokens::kDrop);
}

// A string or an array of ids.
Prompt read_one_prompt(JsonFields& fields, const json::value& value,
                       const text::Tokenizer::EncodeOptions& options, const ApiContext& context) {
  Prompt prompt;
  if (value.is_string()) {
    prompt.text = value.get_string();
    encode_text(fields, prompt.text, options, context, "prompt", prompt.ids);
  } else if (value.is_array()) {
    read_ids(fields, value.get_array(), context, prompt.ids);
  } else {
    fields.fail("prompt", "'prompt' must be a string or an array of token ids, or a list of these");
  }
  if (fields.ok() && prompt.ids.empty()) fields.fail("prompt", "'prompt' must not be empty");
  return prompt;
}

// One prompt, or a list of up to kMaxPrompts.
std::vector<Prompt> read_prompts(JsonFields& fields, const ApiContext& context) {
  const json::value* value = fields.find("prompt");
  if (value == nullptr) {
    fields.fail("prompt", "'prompt' is missing");
    return {};
  }
  const auto options = read_encode_options(fields, *context.model);
  if (!fields.ok()) return {};
  const bool list =
      value->is_array() && !value->get_array().empty() && !value->get_array().front().is_number();
  std::vector<Prompt> prompts;
  if (!list) {
    prompts.push_back(read_one_prompt(fields, *value, options, context));
    return prompts;
  }
  if (value->get_array().size() > kMaxPrompts) {
    fields.fail("prompt",
                "'prompt' may hold " + std::to_string(kMaxPrompts) + " prompts in one request");
  }
  for (const json::value& one : value->get_array()) {
    if (!fields.ok()) break;
    prompts.push_back(read_one_prompt(fields, one, options, context));
  }
  return prompts;
}

std::vector<Prompt> read_messages(JsonFields& fields, const ApiContext& context) {
  const text::ChatPrompt chat = read_chat_prompt(fields, *context.model);
  Prompt prompt;
  if (fields.ok()) {
    encode_text(fields, chat.text, chat.encode_options(), context, "messages", prompt.ids);
  }
  return {prompt};
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

void read_stop_ids(JsonFields& fields, const ServedModel& model, Generation& generation) {
  if (!fields.boolean("ignore_eos").value_or(false)) generation.stop_ids = model.stop_ids;
  generation.include_stop = fields.boolean("include_stop_str_in_output").value_or(false);
  const json::value* list = fields.find("stop_token_ids");
  if (list == nullptr) return;
  const auto is_id = [&](const json::value& id) {
    return id.is_int64() && id.get_int64() >= 0 && id.get_int64() < model.vocab;
  };
  if (!list->is_array() || list->get_array().size() > kMaxStopIds ||
      !std::all_of(list->get_array().begin(), list->get_array().end(), is_id)) {
    return fields.fail("stop_token_ids", "'stop_token_ids' must be a list of at most " +
                                             std::to_string(kMaxStopIds) + " token ids from 0 to " +
                                             std::to_string(model.vocab - 1));
  }
  for (const json::value& id : list->get_array()) {
    generation.stop_ids.push_back(static_cast<std::int32_t>(id.get_int64()));
  }
}

// {"id": bias, ...}
void read_logit_bias(JsonFields& fields, const ServedModel& model, Generation& generation) {
  const json::value* value = fields.find("logit_bias");
  if (value == nullptr) return;
  if (!value->is_object() || value->get_object().size() > kMaxLogitBias) {
    return fields.fail("logit_bias", "'logit_bias' must be an object of at most " +
                                         std::to_string(kMaxLogitBias) + " token ids with biases");
  }
  for (const auto& [key, bias] : value->get_object()) {
    std::int32_t id = -1;
    const char* end = key.data() + key.size();
    const auto [stopped, error] = std::from_chars(key.data(), end, id);
    const double amount = bias.is_number() ? bias.to_number<double>() : 1e9;
    const auto same = [&](const auto& other) { return other.first == id; };
    if (error != std::errc() || stopped != end || id < 0 || id >= model.vocab ||
        !(std::abs(amount) <= 100) ||
        std::any_of(generation.logit_bias.begin(), generation.logit_bias.end(), same)) {
      return fields.fail("logit_bias", "'logit_bias' must have token ids from 0 to " +
                                           std::to_string(model.vocab - 1) +
                                           ", each once, with biases from -100 to 100");
    }
    generation.logit_bias.emplace_back(id, static_cast<float>(amount));
  }
}

void read_sampling(JsonFields& fields, const ServedModel& model, ApiRequest& request,
                   Generation& generation) {
  const auto number = [&](const char* key, double min, double max, bool above, float otherwise) {
    return static_cast<float>(
        fields.number(key, min, max, above).value_or(static_cast<double>(otherwise)));
  };
  generation.temperature = number("temperature", 0, 2, false, model.temperature);
  generation.top_p = number("top_p", 0, 1, true, model.top_p);
  generation.min_p = number("min_p", 0, 1, false, model.min_p);
  generation.presence_penalty = number("presence_penalty", -2, 2, false, 0);
  generation.frequency_penalty = number("frequency_penalty", -2, 2, false, 0);
  generation.repetition_penalty =
      number("repetition_penalty", 0, 2, true, model.repetition_penalty);
  const std::int64_t top_k = fields.integer("top_k", -1, 1 << 30).value_or(model.top_k);
  generation.top_k = static_cast<std::uint32_t>(std::max<std::int64_t>(0, top_k));
  request.sampled = generation.temperature > 0;
  read_logit_bias(fields, model, generation);
}

void read_choices(JsonFields& fields, Generation& generation) {
  const std::int64_t n = fields.integer("n", 1, cluster::kMaxChoices).value_or(1);
  generation.choices = static_cast<std::uint32_t>(n);
  const auto best_of = fields.integer("best_of", 1, kAny);
  if (best_of && *best_of != n) fields.fail("best_of", "'best_of' other than 'n' is not supported");
}

void read_logprobs(JsonFields& fields, Endpoint endpoint, Generation& generation) {
  const auto count = [](std::int64_t given) { return static_cast<std::uint32_t>(given); };
  if (endpoint == Endpoint::kCompletions) {
    const auto given = fields.integer("logprobs", 0, cluster::kMaxLogprobs);
    if (given) generation.logprobs = count(*given);
    return;
  }
  const bool wanted = fields.boolean("logprobs").value_or(false);
  const auto top = fields.integer("top_logprobs", 0, cluster::kMaxLogprobs);
  if (wanted) generation.logprobs = count(top.value_or(0));
  if (!wanted && top.value_or(0) > 0) {
    fields.fail("top_logprobs", "'top_logprobs' is only allowed with 'logprobs': true");
  }
}

// Of a prompt alone, repeated, nothing need be generated.
void read_max_tokens(JsonFields& fields, Endpoint endpoint, bool echo, const ApiContext& context,
                     Generation& generation) {
  auto wanted = fields.integer("max_completion_tokens", 1, kAny);
  const auto older = fields.integer("max_tokens", echo ? 0 : 1, kAny);
  if (!wanted) wanted = older;
  const auto least = fields.integer("min_tokens", 0, kAny);
  if (!fields.ok()) return;
  const std::size_t length = generation.prompt.size();
  if (length >= context.model->context) {
    const char* param = endpoint == Endpoint::kChat ? "messages" : "prompt";
    return fields.fail(too_long(context, std::to_string(length), param));
  }
  const auto room = static_cast<std::int64_t>(context.model->context - length);
  const std::int64_t most =
      std::min(room, wanted.value_or(std::int64_t{context.default_max_tokens}));
  generation.max_tokens = static_cast<std::uint32_t>(most);
  if (least.value_or(0) > most) {
    return fields.fail("min_tokens",
                       "'min_tokens' must be at most max_tokens, here " + std::to_string(most));
  }
  generation.min_tokens = static_cast<std::uint32_t>(least.value_or(0));
}

// The client's seed is that of every prompt, so that a prompt is answered in a list as alone. A
// list without one is given one for each prompt: equal prompts are to be answered differently.
void set_seeds(const std::optional<std::int64_t>& seed, ApiRequest& request) {
  for (Generation& generation : request.generations) {
    generation.seed = seed ? static_cast<std::uint64_t>(*seed) : fresh_id() >> kSeedShift;
  }
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
  Generation generation;  // but for its prompt
  read_model(fields, *context.model);
  refuse_unsupported(fields);
  read_codec(fields, codec_header, context, generation);
  read_stream(fields, request);
  read_stop(fields, generation.stop);
  read_stop_ids(fields, *context.model, generation);
  read_sampling(fields, *context.model, request, generation);
  read_choices(fields, generation);
  read_logprobs(fields, endpoint, generation);
  const auto seed = fields.whole("seed");
  const bool echo = fields.boolean("echo").value_or(false);
  if (echo && endpoint == Endpoint::kChat) fields.fail("echo", "'echo' is of completions alone");
  generation.prompt_logprobs = echo && generation.logprobs.has_value();
  generation.timeout_ns = context.timeout_ns;
  if (!fields.ok()) return fields.error();
  auto prompts =
      endpoint == Endpoint::kChat ? read_messages(fields, context) : read_prompts(fields, context);
  for (Prompt& prompt : prompts) {
    if (!fields.ok()) return fields.error();
    if (echo) request.echo.push_back(text_of(prompt, *context.model));
    generation.prompt = std::move(prompt.ids);
    read_max_tokens(fields, endpoint, echo, context, generation);
    request.generations.push_back(generation);
  }
  if (!fields.ok()) return fields.error();
  set_seeds(seed, request);
  return request;
}

}  // namespace kvferry::gateway
