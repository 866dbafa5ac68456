#include "gateway/api_logprobs.h"

#include <algorithm>
#include <array>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <cstdio>
#include <string>
#include <string_view>
#include <utility>

#include "text/utf8.h"

namespace kvferry::gateway {
namespace {

namespace json = boost::json;

double told(float logprob) { return static_cast<double>(std::max(logprob, kLeastLogprob)); }

std::string escaped(std::string_view bytes) {
  std::string text = "bytes:";
  for (const char byte : bytes) {
    std::array<char, 5> digits{};
    std::snprintf(digits.data(), digits.size(), "\\x%02x", static_cast<unsigned char>(byte));
    text += digits.data();
  }
  return text;
}

std::size_t characters(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

}  // namespace

LogprobsJson::LogprobsJson(Endpoint endpoint, std::shared_ptr<const text::Tokenizer> tokenizer,
                           text::Detokenizer::Before before)
    : endpoint_(endpoint),
      tokenizer_(std::move(tokenizer)),
      detokenizer_(tokenizer_, text::SpecialTokens::kDrop, before) {}

json::value LogprobsJson::write(std::span<const TokenLogprobs> tokens) {
  return endpoint_ == Endpoint::kChat ? chat(tokens) : completions(tokens);
}

std::string LogprobsJson::token_text(std::int32_t id) const {
  const std::string_view bytes = tokenizer_->id_to_bytes(id);
  std::string text = text::replace_invalid_utf8(bytes);
  return endpoint_ == Endpoint::kCompletions && text != bytes ? escaped(bytes) : text;
}

json::value LogprobsJson::completions(std::span<const TokenLogprobs> tokens) {
  json::array texts, logprobs, tops, offsets;
  for (const TokenLogprobs& token : tokens) {
    const std::string text = token_text(token.id);
    texts.emplace_back(text);
    offsets.emplace_back(offset_);
    offset_ += characters(detokenizer_.feed(token.id));
    if (!token.logprob) {
      logprobs.emplace_back(nullptr);
      tops.emplace_back(nullptr);
      continue;
    }
    logprobs.emplace_back(told(*token.logprob));
    json::object top;
    for (const auto& [id, logprob] : token.top) top.emplace(token_text(id), told(logprob));
    top.emplace(text, told(*token.logprob));  // unless it is there
    tops.emplace_back(std::move(top));
  }
  return json::object{{"text_offset", std::move(offsets)},
                      {"token_logprobs", std::move(logprobs)},
                      {"tokens", std::move(texts)},
                      {"top_logprobs", std::move(tops)}};
}

json::value LogprobsJson::chat(std::span<const TokenLogprobs> tokens) const {
  const auto entry = [&](std::int32_t id, float logprob) {
    json::array bytes;
    for (const char byte : tokenizer_->id_to_bytes(id)) {
      bytes.emplace_back(static_cast<unsigned char>(byte));
    }
    return json::object{
        {"token", token_text(id)}, {"logprob", told(logprob)}, {"bytes", std::move(bytes)}};
  };
  json::array content;
  for (const TokenLogprobs& token : tokens) {
    json::object each = entry(token.id, token.logprob.value_or(0));
    json::array top;
    for (const auto& [id, logprob] : token.top) top.emplace_back(entry(id, logprob));
    each["top_logprobs"] = std::move(top);
    content.emplace_back(std::move(each));
  }
  return json::object{{"content", std::move(content)}, {"refusal", nullptr}};
}

}  // namespace kvferry::gateway
