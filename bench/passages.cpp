#include "bench/passages.h"

#include <algorithm>
#include <boost/json.hpp>
#include <fstream>
#include <iterator>
#include <string>
#include <system_error>
#include <utility>

#include "codec/codec.h"
#include "text/utf8.h"

namespace kvferry::bench {
namespace {

namespace json = boost::json;

// At most `count` of them, evenly spread, in order.
std::vector<Passage> evenly(std::vector<Passage> all, std::uint32_t count) {
  if (count == 0 || all.size() <= count) return all;
  std::vector<Passage> some;
  for (std::size_t i = 0; i < count; ++i) some.push_back(std::move(all[i * all.size() / count]));
  return some;
}

// The parts of `text` between the separators.
std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (true) {
    const std::size_t end = text.find(separator);
    parts.push_back(text.substr(0, end));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

Passage window_of(std::vector<std::int32_t> ids) {
  Passage passage;
  for (std::uint32_t i = codec::kMaxTileTokens; i + 1 < ids.size(); ++i)
    passage.measured.push_back(i);
  passage.ids = std::move(ids);
  return passage;
}

Result<Passage> question_of(const text::Tokenizer& tokenizer, std::string_view line) {
  boost::system::error_code error;
  const json::value value = json::parse(line, error);
  const bool pairs =
      !error && value.is_array() && !value.get_array().empty() && value.get_array().size() % 2 == 0;
  if (!pairs) return invalid_argument("it is not a JSON array of prompts and answers in turn");
  Passage passage;
  bool answer = false;
  for (const json::value& part : value.get_array()) {
    if (!part.is_string()) return invalid_argument("it has something that is not a string");
    const std::string_view text = part.get_string();
    const bool bos = passage.ids.empty() && tokenizer.add_bos();
    KVF_ASSIGN_OR_RETURN(const auto ids, tokenizer.encode(text, bos));
    if (ids.empty()) return invalid_argument("it has an empty prompt or answer");
    if (answer) {
      const auto begin = static_cast<std::uint32_t>(passage.ids.size());
      const std::size_t first = passage.measured.size();
      for (std::uint32_t i = 0; i < ids.size(); ++i) passage.measured.push_back(begin + i - 1);
      passage.answers.push_back({first, passage.measured.size()});
    }
    passage.ids.insert(passage.ids.end(), ids.begin(), ids.end());
    answer = !answer;
  }
  return passage;
}

}  // namespace

Result<std::vector<Passage>> text_passages(const text::Tokenizer& tokenizer, std::string_view text,
                                           std::uint32_t window, std::uint32_t count) {
  if (window < kLeastWindow) {
    return invalid_argument("a window needs at least " + std::to_string(kLeastWindow) + " tokens");
  }
  const bool bos = tokenizer.add_bos() && tokenizer.bos_id() >= 0;
  const std::size_t step = window - (bos ? 1 : 0);
  std::vector<Passage> passages;
  for (const std::string_view document : split(text, '\f')) {
    KVF_ASSIGN_OR_RETURN(const auto ids, tokenizer.encode(document, false));
    for (std::size_t at = 0; at < ids.size(); at += step) {
      std::vector<std::int32_t> part;
      if (bos) part.push_back(tokenizer.bos_id());
      const std::size_t n = std::min(step, ids.size() - at);
      part.insert(part.end(), ids.begin() + at, ids.begin() + at + n);
      if (part.size() >= kLeastWindow) passages.push_back(window_of(std::move(part)));
    }
  }
  if (passages.empty()) {
    return invalid_argument("no document of the text has " + std::to_string(kLeastWindow) +
                            " tokens; give a longer one");
  }
  return evenly(std::move(passages), count);
}

Result<std::vector<Passage>> question_passages(const text::Tokenizer& tokenizer,
                                               std::string_view lines, std::uint32_t context,
                                               std::uint32_t count) {
  std::vector<Passage> passages;
  std::size_t number = 0;
  for (const std::string_view line : split(lines, '\n')) {
    ++number;
    if (line.empty()) continue;
    auto passage = question_of(tokenizer, line);
    const std::string where = "line " + std::to_string(number) + " of the questions";
    if (!passage.ok()) return passage.status().with_context(where);
    if (passage->ids.size() > context) {
      return invalid_argument(where + ": its " + std::to_string(passage->ids.size()) +
                              " tokens exceed the model's context of " + std::to_string(context));
    }
    passages.push_back(std::move(*passage));
  }
  if (passages.empty()) return invalid_argument("there is no question; one JSON array a line");
  return evenly(std::move(passages), count);
}

Result<std::string> read_passage_file(const std::filesystem::path& path) {
  std::error_code none;
  if (std::filesystem::is_directory(path, none)) {
    return invalid_argument(path.string() + " is a directory; give a file");
  }
  std::ifstream in(path, std::ios::binary);
  if (!in) return not_found("cannot read " + path.string());
  std::string text(kMaxPassageFileBytes + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(in.gcount()));
  if (text.size() > kMaxPassageFileBytes) {
    return invalid_argument(path.string() + " is over " +
                            std::to_string(kMaxPassageFileBytes >> 20) + " MiB long");
  }
  if (!text::is_utf8(text)) {
    return invalid_argument(path.string() + " is not UTF-8; convert it, with iconv for example");
  }
  return text;
}

}  // namespace kvferry::bench
