#include "text/pre_tokenizer.h"

#include <optional>
#include <utility>

#include "text/json_file.h"
#include "text/metaspace.h"
#include "text/regex.h"
#include "text/utf8.h"

namespace kvferry::text {
namespace {

// GPT-2's, which ByteLevel applies where use_regex is set.
constexpr std::string_view kByteLevelPattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

enum class Drop { kNothing, kMatches, kGaps };

bool flag(const boost::json::value& of, std::string_view name, bool otherwise) {
  const bool* const value = member(of, name).if_bool();
  return value == nullptr ? otherwise : *value;
}

}  // namespace

struct PreTokenizer::Step {
  std::optional<Regex> pattern;  // pieces and gaps of it become pieces
  Drop drop = Drop::kNothing;
  bool merges_with_next = false;  // a match begins a piece, it is none itself
  bool add_prefix_space = false;
  std::optional<Metaspace> metaspace;  // comes before the pattern

  // What the step makes of a piece before the pattern cuts it.
  std::string_view change(std::string_view piece, bool is_first,
                          std::deque<std::string>& changed) const;
  Status apply(std::string_view piece, Regex::Scratch& scratch,
               std::vector<std::string_view>& out) const;
};

PreTokenizer::PreTokenizer() = default;
PreTokenizer::PreTokenizer(PreTokenizer&&) noexcept = default;
PreTokenizer& PreTokenizer::operator=(PreTokenizer&&) noexcept = default;
PreTokenizer::~PreTokenizer() = default;

Result<PreTokenizer> PreTokenizer::make(const boost::json::value& description) {
  PreTokenizer made;
  if (!description.is_null()) KVF_RETURN_IF_ERROR(made.add_steps(description, 0));
  return made;
}

Status PreTokenizer::add_steps(const boost::json::value& description, int depth) {
  const std::string type(text_of(member(description, "type")));
  if (ends_in_bytes_) return unsupported("pre_tokenizer " + type + " after ByteLevel");
  if (depth > kMaxSteps || steps_.size() >= kMaxSteps) {
    return unsupported("pre_tokenizer with more than " + std::to_string(kMaxSteps) + " steps");
  }
  if (type == "Sequence") {
    const boost::json::array* const parts = member(description, "pretokenizers").if_array();
    if (parts == nullptr) return invalid_argument("pre_tokenizer Sequence without pretokenizers");
    for (const boost::json::value& part : *parts) KVF_RETURN_IF_ERROR(add_steps(part, depth + 1));
    return {};
  }
  if (type == "Split") return add_split(description);
  Step step;
  if (type == "Digits") {
    const bool apart = flag(description, "individual_digits", false);
    KVF_ASSIGN_OR_RETURN(step.pattern, Regex::compile(apart ? R"(\p{N})" : R"(\p{N}+)", false));
  } else if (type == "ByteLevel") {
    step.add_prefix_space = flag(description, "add_prefix_space", true);
    if (flag(description, "use_regex", true)) {
      KVF_ASSIGN_OR_RETURN(step.pattern, Regex::compile(kByteLevelPattern, false));
    }
    ends_in_bytes_ = true;
  } else if (type == "Metaspace") {
    KVF_ASSIGN_OR_RETURN(step.metaspace, Metaspace::make(description));
    // Each marker begins a piece.
    if (step.metaspace->split) {
      KVF_ASSIGN_OR_RETURN(step.pattern, Regex::compile(step.metaspace->replacement, true));
      step.merges_with_next = true;
    }
  } else {
    return unsupported("pre_tokenizer " + (type.empty() ? "without a type" : type) +
                       "; supported are Digits, Split, Metaspace, ByteLevel and Sequence of them");
  }
  steps_.push_back(std::move(step));
  return {};
}

Status PreTokenizer::add_split(const boost::json::value& description) {
  const boost::json::value& pattern = member(description, "pattern");
  const std::string_view regex = text_of(member(pattern, "Regex"));
  const std::string_view literal = text_of(member(pattern, "String"));
  if (regex.empty() == literal.empty()) {
    return invalid_argument("pre_tokenizer Split needs one pattern, Regex or String, not empty");
  }
  const std::string_view behavior = text_of(member(description, "behavior"));
  const bool invert = flag(description, "invert", false);
  Step step;
  if (behavior == "Removed") {
    step.drop = invert ? Drop::kGaps : Drop::kMatches;
  } else if (behavior != "Isolated") {
    return unsupported("pre_tokenizer Split with behavior " + std::string(behavior) +
                       "; supported are Isolated and Removed");
  }
  KVF_ASSIGN_OR_RETURN(step.pattern,
                       Regex::compile(regex.empty() ? literal : regex, regex.empty()));
  steps_.push_back(std::move(step));
  return {};
}

std::string_view PreTokenizer::Step::change(std::string_view piece, bool is_first,
                                            std::deque<std::string>& changed) const {
  if (metaspace) return changed.emplace_back(metaspace->apply(piece, is_first));
  if (add_prefix_space && piece.front() != ' ') {
    return changed.emplace_back(" " + std::string(piece));
  }
  return piece;
}

Status PreTokenizer::Step::apply(std::string_view piece, Regex::Scratch& scratch,
                                 std::vector<std::string_view>& out) const {
  const auto emit = [&](std::size_t begin, std::size_t end, Drop kind) {
    if (begin < end && drop != kind) out.push_back(piece.substr(begin, end - begin));
  };
  std::size_t done = 0;
  std::size_t from = 0;
  while (from < piece.size()) {
    KVF_ASSIGN_OR_RETURN(const Regex::Match match, pattern->find(piece, from, scratch));
    if (!match.found) break;
    // An empty match cuts where it is, and the search goes on behind the next character.
    emit(done, match.begin, Drop::kGaps);
    if (merges_with_next) {
      done = match.begin;
    } else {
      emit(match.begin, match.end, Drop::kMatches);
      done = match.end;
    }
    from =
        match.end > match.begin ? match.end : match.end + utf8_step(piece.substr(match.end)).length;
    if (match.end == piece.size()) break;
  }
  emit(done, piece.size(), Drop::kGaps);
  return {};
}

Status PreTokenizer::split(std::string_view text, bool is_first, Pieces& pieces) const {
  if (text.empty()) return {};
  std::vector<std::string_view> now = {text};
  std::vector<std::string_view> next;
  const char* first = is_first ? text.data() : nullptr;  // where the piece begins that is first
  for (const Step& step : steps_) {
    for (std::string_view& piece : now) {
      const bool was_first = piece.data() == first;
      piece = step.change(piece, was_first, pieces.changed);
      if (was_first) first = piece.data();
    }
    if (!step.pattern) continue;
    next.clear();
    Regex::Scratch scratch(*step.pattern);
    for (const std::string_view piece : now) {
      KVF_RETURN_IF_ERROR(step.apply(piece, scratch, next));
    }
    now.swap(next);
  }
  pieces.all.insert(pieces.all.end(), now.begin(), now.end());
  return {};
}

}  // namespace kvferry::text
