#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/regex.h"

#include <pcre2.h>

#include <array>
#include <cctype>
#include <string>

namespace kvferry::text {
namespace {

std::string message_of(int error) {
  std::array<PCRE2_UCHAR, 256> buffer{};
  pcre2_get_error_message(error, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

// PCRE2's own \s has U+180E too.
constexpr std::string_view kSpaces = R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a})"
                                     R"(\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
constexpr std::string_view kSharedEscapes = "dDpPrntfxAz";

// The pattern in PCRE2's words.
Result<std::string> translate(std::string_view pattern) {
  std::string out;
  bool in_class = false;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size()) {
      const char escaped = pattern[++i];
      const bool is_word = std::isalnum(static_cast<unsigned char>(escaped)) != 0;
      if (escaped == 's') {
        out.append(in_class ? "" : "[").append(kSpaces).append(in_class ? "" : "]");
      } else if (escaped == 'S' && !in_class) {
        out.append("[^").append(kSpaces).append("]");
      } else if (!is_word || kSharedEscapes.find(escaped) != std::string_view::npos) {
        out.append({c, escaped});
      } else {
        return unsupported("\\" + std::string(1, escaped) + " in the pattern " +
                           std::string(pattern));
      }
      continue;
    }
    if (in_class && (c == '[' || (c == '&' && pattern.substr(i).starts_with("&&")))) {
      return unsupported("a class within a class in the pattern " + std::string(pattern));
    }
    if (c == '[') in_class = true;
    if (c == ']') in_class = false;
    out += c;
  }
  return out;
}

PCRE2_SPTR chars(std::string_view text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

}  // namespace

void Regex::Free::operator()(pcre2_real_code_8* code) const { pcre2_code_free(code); }

void Regex::Scratch::Free::operator()(pcre2_real_match_data_8* data) const {
  pcre2_match_data_free(data);
}

void Regex::Scratch::Free::operator()(pcre2_real_match_context_8* context) const {
  pcre2_match_context_free(context);
}

Regex::Scratch::Scratch(const Regex& regex)
    : data_(pcre2_match_data_create_from_pattern(regex.code_.get(), nullptr)),
      context_(pcre2_match_context_create(nullptr)) {
  if (context_) pcre2_set_match_limit(context_.get(), kMatchLimit);
}

Result<Regex> Regex::compile(std::string_view pattern, bool literal) {
  std::string translated(pattern);
  if (!literal) {
    KVF_ASSIGN_OR_RETURN(translated, translate(pattern));
  }
  const std::uint32_t options = PCRE2_UTF | (literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_MULTILINE);
  int error = 0;
  PCRE2_SIZE offset = 0;
  Regex regex;
  regex.code_.reset(
      pcre2_compile(chars(translated), translated.size(), options, &error, &offset, nullptr));
  if (!regex.code_) {
    return invalid_argument("pattern " + std::string(pattern) + " does not compile at " +
                            std::to_string(offset) + ": " + message_of(error));
  }
  // Without JIT the interpreter does the same, slower.
  static_cast<void>(pcre2_jit_compile(regex.code_.get(), PCRE2_JIT_COMPLETE));
  return regex;
}

Result<Regex::Match> Regex::find(std::string_view text, std::size_t from, Scratch& scratch) const {
  if (!scratch.data_ || !scratch.context_) return resource_exhausted("no memory for a match");
  const int count = pcre2_match(code_.get(), chars(text), text.size(), from, PCRE2_NO_UTF_CHECK,
                                scratch.data_.get(), scratch.context_.get());
  if (count == PCRE2_ERROR_NOMATCH) return Match{};
  if (count < 0) {
    return resource_exhausted("the tokenizer's pattern gave up on this text: " + message_of(count));
  }
  const PCRE2_SIZE* const bounds = pcre2_get_ovector_pointer(scratch.data_.get());
  // \K in a lookahead can put the start behind the end: then there is nothing to cut out.
  return Match{true, bounds[0] > bounds[1] ? bounds[1] : bounds[0], bounds[1]};
}

}  // namespace kvferry::text
