#include "codec/spec.h"

#include <algorithm>
#include <charconv>
#include <utility>

namespace kvferry::codec {
namespace {

// Not isalpha: a spec means the same in every locale.
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name(char c) { return is_letter(c) || is_digit(c); }
bool is_value(char c) { return is_name(c) || c == '.' || c == '-' || c == '+' || c == '/'; }
bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Result<std::vector<SpecStage>> spec() {
    std::vector<SpecStage> stages;
    do {
      KVF_ASSIGN_OR_RETURN(SpecStage next, stage());
      stages.push_back(std::move(next));
    } while (accept('|'));
    if (!at_end()) return spec_error(position(), "\"|\" or the end");
    return stages;
  }

 private:
  Result<SpecStage> stage() {
    skip_blanks();
    SpecStage stage;
    stage.position = position();
    if (at_end() || !is_letter(text_[at_])) return spec_error(position(), "the name of a stage");
    stage.name = take(is_name);
    if (!accept('(') || accept(')')) return stage;
    do {
      KVF_ASSIGN_OR_RETURN(SpecArgument next, argument());
      stage.arguments.push_back(std::move(next));
    } while (accept(','));
    if (!accept(')')) return spec_error(position(), "\",\" or \")\"");
    return stage;
  }

  Result<SpecArgument> argument() {
    skip_blanks();
    SpecArgument argument;
    argument.position = argument.value_position = position();
    const bool quoted = !at_end() && text_[at_] == '"';
    KVF_ASSIGN_OR_RETURN(std::string first, value());
    if (first.empty()) {
      return spec_error(argument.position, quoted ? "something between the quotation marks"
                                                  : "an argument such as key=value");
    }
    if (!accept('=')) {
      argument.value = std::move(first);
      return argument;
    }
    if (quoted || !is_letter(first[0]) || !std::all_of(first.begin(), first.end(), is_name)) {
      return spec_error(argument.position, "a key of letters, digits and \"_\" before \"=\"");
    }
    argument.key = std::move(first);
    skip_blanks();
    argument.value_position = position();
    KVF_ASSIGN_OR_RETURN(argument.value, value());
    if (argument.value.empty()) {
      return spec_error(argument.value_position, "a value for \"" + argument.key + "\"");
    }
    return argument;
  }

  // Empty where there is none.
  Result<std::string> value() {
    if (at_end() || text_[at_] != '"') return take(is_value);
    std::string value;
    for (++at_; !at_end() && text_[at_] != '"'; ++at_) {
      if (text_[at_] == '\\') {
        ++at_;
        if (at_end() || (text_[at_] != '"' && text_[at_] != '\\')) {
          return spec_error(position(), "\" or \\ behind \\");
        }
      }
      value += text_[at_];
    }
    if (at_end()) return spec_error(position(), "\" behind the value");
    ++at_;
    return value;
  }

  template <class Predicate>
  std::string take(Predicate predicate) {
    const std::size_t begin = at_;
    while (!at_end() && predicate(text_[at_])) ++at_;
    return std::string(text_.substr(begin, at_ - begin));
  }
  bool accept(char c) {
    skip_blanks();
    if (at_end() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  void skip_blanks() {
    while (!at_end() && is_blank(text_[at_])) ++at_;
  }
  bool at_end() const { return at_ == text_.size(); }
  std::size_t position() const { return at_ + 1; }

  std::string_view text_;
  std::size_t at_ = 0;
};

template <class Items, class ToText>
std::string one_of(const Items& items, ToText to_text) {
  std::string list;
  for (auto item = items.begin(); item != items.end(); ++item) {
    if (item != items.begin()) list += item + 1 == items.end() ? " or " : ", ";
    list += to_text(*item);
  }
  return list;
}

}  // namespace

Status spec_error(std::size_t position, std::string_view expected) {
  return invalid_argument("codec spec, character " + std::to_string(position) + ": expected " +
                          std::string(expected));
}

Result<std::vector<SpecStage>> parse_spec(std::string_view text) {
  if (text.size() > kMaxSpecBytes) {
    return spec_error(kMaxSpecBytes + 1, "the end: a spec has at most " +
                                             std::to_string(kMaxSpecBytes) + " characters");
  }
  return Parser(text).spec();
}

std::vector<std::string> split_specs(std::string_view list) {
  std::vector<std::string> specs(1);
  bool quoted = false;
  for (std::size_t at = 0; at < list.size(); ++at) {
    if (list[at] == ';' && !quoted) {
      specs.emplace_back();
      continue;
    }
    if (list[at] == '"') quoted = !quoted;
    if (quoted && list[at] == '\\' && at + 1 < list.size()) specs.back() += list[at++];
    specs.back() += list[at];
  }
  return specs;
}

Status SpecArguments::check_keys(std::initializer_list<std::string_view> keys) const {
  const auto text = [](std::string_view key) {
    return key.empty() ? std::string("a bare word") : std::string(key);
  };
  for (auto a = stage_.arguments.begin(); a != stage_.arguments.end(); ++a) {
    if (std::find(keys.begin(), keys.end(), a->key) == keys.end()) {
      return spec_error(a->position, keys.size() == 0
                                         ? "no argument: " + stage_.name + " takes none"
                                         : "one of the arguments of " + stage_.name +
                                               ", which are " + one_of(keys, text));
    }
    if (std::any_of(stage_.arguments.begin(), a,
                    [&](const SpecArgument& earlier) { return earlier.key == a->key; })) {
      return spec_error(a->position,
                        a->key.empty() ? "one bare word only" : "\"" + a->key + "\" only once");
    }
  }
  return ok_status();
}

Status SpecArguments::check_beside(std::string_view companion,
                                   std::initializer_list<std::string_view> keys) const {
  for (const SpecArgument& argument : stage_.arguments) {
    if (std::find(keys.begin(), keys.end(), argument.key) != keys.end()) {
      return spec_error(argument.position,
                        std::string(companion) + " beside \"" + argument.key + "\"");
    }
  }
  return ok_status();
}

Result<std::uint32_t> SpecArguments::integer(std::string_view key,
                                             std::initializer_list<std::uint32_t> allowed,
                                             std::uint32_t fallback) const {
  const SpecArgument* argument = find(key);
  if (argument == nullptr) return fallback;
  std::uint32_t value = 0;
  const char* end = argument->value.data() + argument->value.size();
  const auto [rest, error] = std::from_chars(argument->value.data(), end, value);
  if (error != std::errc() || rest != end ||
      std::find(allowed.begin(), allowed.end(), value) == allowed.end()) {
    return spec_error(argument->value_position,
                      one_of(allowed, [](std::uint32_t v) { return std::to_string(v); }) +
                          " for \"" + std::string(key) + "\"");
  }
  return value;
}

Result<std::uint64_t> SpecArguments::number(std::string_view key, std::uint64_t max,
                                            std::uint64_t fallback) const {
  const SpecArgument* argument = find(key);
  if (argument == nullptr) return fallback;
  std::uint64_t value = 0;
  const char* end = argument->value.data() + argument->value.size();
  const auto [rest, error] = std::from_chars(argument->value.data(), end, value);
  if (error != std::errc() || rest != end || value > max) {
    return spec_error(argument->value_position, "a number from 0 to " + std::to_string(max) +
                                                    " for \"" + std::string(key) + "\"");
  }
  return value;
}

Result<std::size_t> SpecArguments::word(std::string_view key,
                                        std::initializer_list<std::string_view> allowed,
                                        std::size_t fallback) const {
  const SpecArgument* argument = find(key);
  if (argument == nullptr) return fallback;
  const auto found = std::find(allowed.begin(), allowed.end(), argument->value);
  if (found == allowed.end()) {
    return spec_error(argument->value_position,
                      one_of(allowed, [](std::string_view v) { return std::string(v); }) +
                          (key.empty() ? "" : " for \"" + std::string(key) + "\""));
  }
  return static_cast<std::size_t>(found - allowed.begin());
}

std::size_t SpecArguments::position(std::string_view key) const {
  const SpecArgument* argument = find(key);
  return argument == nullptr ? 0 : argument->position;
}

const SpecArgument* SpecArguments::find(std::string_view key) const {
  const auto found = std::find_if(stage_.arguments.begin(), stage_.arguments.end(),
                                  [&](const SpecArgument& a) { return a.key == key; });
  return found == stage_.arguments.end() ? nullptr : &*found;
}

}  // namespace kvferry::codec
