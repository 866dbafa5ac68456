#include "gateway/unsupported_fields.h"

#include <algorithm>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <string>

namespace kvferry::gateway {
namespace {

namespace json = boost::json;

constexpr UnsupportedField kFields[] = {
    // Tools, and formats that an answer must have.
    {"tools", "[[]]"},
    {"tool_choice", R"(["none","auto",""])"},
    {"functions", "[[]]"},
    {"function_call", R"(["none","auto",""])"},
    {"response_format", R"([{"type":"text"}])"},
    {"guided_json", R"([{},""])"},
    {"guided_regex", R"([""])"},
    {"guided_choice", "[[]]"},
    {"guided_grammar", R"([""])"},
    {"json_schema", R"([{},""])"},
    {"regex", R"([""])"},
    {"ebnf", R"([""])"},
    {"structural_tag", R"([""])"},
    {"structured_outputs", "[{}]"},
    // What the prompt is.
    {"chat_template", R"([""])"},
    {"continue_final_message", "[false]"},
    {"documents", "[[]]"},
    {"mm_processor_kwargs", "[{}]"},
    {"prompt_embeds", "[[]]"},
    {"suffix", R"([""])"},
    {"truncate_prompt_tokens", "[]"},
    // How much is thought, and said.
    {"reasoning_effort", "[]"},
    {"include_reasoning", "[true]"},
    {"thinking", "[]"},
    {"enable_thinking", "[]"},
    {"thinking_token_budget", "[]"},
    {"verbosity", R"(["medium"])"},
    {"web_search_options", "[]"},
    {"modalities", R"([["text"],[]])"},
    {"audio", "[]"},
    // How tokens are chosen.
    {"allowed_token_ids", "[]"},
    {"bad_words", "[[]]"},
    {"logits_processors", "[[]]"},
    {"use_beam_search", "[false]"},
    {"length_penalty", "[1]"},
    {"vllm_xargs", "[{}]"},
    {"kv_transfer_params", "[{}]"},
    // What the answer holds.
    {"prompt_logprobs", "[]"},
    {"return_tokens_as_token_ids", "[false]"},
    {"detokenize", "[true]"},
    {"skip_special_tokens", "[true]"},
};

bool is_same(const json::value& a, const json::value& b) {
  if (a.is_number() && b.is_number()) return a.to_number<double>() == b.to_number<double>();
  return a == b;
}

bool is_neutral(const json::value& value, const json::array& neutral) {
  return std::any_of(neutral.begin(), neutral.end(),
                     [&](const json::value& one) { return is_same(value, one); });
}

// "null, false or 1".
std::string or_list(const json::array& neutral) {
  std::string text = "null";
  for (std::size_t i = 0; i < neutral.size(); ++i) {
    text += i + 1 == neutral.size() ? " or " : ", ";
    text += json::serialize(neutral[i]);
  }
  return text;
}

}  // namespace

std::span<const UnsupportedField> unsupported_fields() { return kFields; }

void refuse_unsupported(JsonFields& fields) {
  for (const UnsupportedField& field : kFields) {
    const json::value* value = fields.find(field.name);
    if (value == nullptr) continue;
    const json::array neutral = json::parse(field.neutral).as_array();
    if (is_neutral(*value, neutral)) continue;
    fields.fail(field.name, std::string("'") + field.name + "' is not supported; it may be " +
                                or_list(neutral));
  }
}

}  // namespace kvferry::gateway
