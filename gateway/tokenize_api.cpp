#include "gateway/tokenize_api.h"

#include <boost/json/serialize.hpp>
#include <boost/json/value_from.hpp>
#include <cstdint>
#include <utility>
#include <vector>

#include "gateway/api_fields.h"
#include "gateway/unsupported_fields.h"
#include "text/tokenizer.h"

namespace kvferry::gateway {
namespace {

namespace json = boost::json;

json::value token_strs(const std::vector<std::int32_t>& ids, const text::Tokenizer& tokenizer) {
  json::array list;
  for (const std::int32_t id : ids) list.emplace_back(tokenizer.content(id));
  return list;
}

std::vector<std::int32_t> read_tokens(JsonFields& fields, const ServedModel& model) {
  std::vector<std::int32_t> ids;
  const json::value* list = fields.find("tokens");
  if (list == nullptr || !list->is_array()) {
    fields.fail("tokens", "'tokens' must be a list of token ids");
    return ids;
  }
  for (const json::value& id : list->get_array()) {
    if (!id.is_int64() || id.get_int64() < 0 || id.get_int64() >= model.vocab) {
      fields.fail("tokens", "token ids in 'tokens' must be whole numbers from 0 to " +
                                std::to_string(model.vocab - 1));
      return ids;
    }
    ids.push_back(static_cast<std::int32_t>(id.get_int64()));
  }
  return ids;
}

}  // namespace

ApiResult<std::string> answer_tokenize(std::string_view body, const ServedModel& model) {
  const auto read = parse_body(body);
  if (const auto* error = std::get_if<ApiError>(&read)) return *error;
  JsonFields fields(std::get<json::object>(read));
  read_model(fields, model);
  refuse_unsupported(fields);
  const bool as_text = fields.boolean("return_token_strs").value_or(false);
  text::ChatPrompt chat;
  text::Tokenizer::EncodeOptions options;
  if (fields.find("messages") != nullptr) {
    chat = read_chat_prompt(fields, model);
    options = chat.encode_options();
  } else {
    auto prompt = fields.string("prompt");
    if (!prompt) fields.fail("prompt", "'prompt' or 'messages' is missing");
    if (prompt) chat.text = std::move(*prompt);
    options = read_encode_options(fields, model);
  }
  if (!fields.ok()) return fields.error();
  const auto ids = model.tokenizer->encode(chat.text, options);
  if (!ids.ok()) return bad_request(ids.status().message(), "prompt");
  return json::serialize(json::value{
      {"count", ids->size()},
      {"max_model_len", model.context},
      {"tokens", json::value_from(*ids)},
      {"token_strs", as_text ? token_strs(*ids, *model.tokenizer) : json::value(nullptr)}});
}

ApiResult<std::string> answer_detokenize(std::string_view body, const ServedModel& model) {
  const auto read = parse_body(body);
  if (const auto* error = std::get_if<ApiError>(&read)) return *error;
  JsonFields fields(std::get<json::object>(read));
  read_model(fields, model);
  const std::vector<std::int32_t> ids = read_tokens(fields, model);
  if (!fields.ok()) return fields.error();
  const std::string text = model.tokenizer->decode(ids, text::SpecialTokens::kKeep);
  return json::serialize(json::value{{"prompt", text}});
}

}  // namespace kvferry::gateway
