#include "text/decoder.h"

#include <optional>

#include "text/byte_alphabet.h"
#include "text/json_file.h"
#include "text/metaspace.h"

namespace kvferry::text {
namespace {

constexpr std::size_t kMaxSteps = 16;
constexpr std::int64_t kMaxStrip = 16;

}  // namespace

Result<Decoder> Decoder::make(const boost::json::value& description) {
  Decoder made;
  const std::string_view type = text_of(member(description, "type"));
  if (type == "ByteLevel") {
    made.byte_level_ = true;
    return made;
  }
  if (type != "Sequence") {
    KVF_RETURN_IF_ERROR(made.add_step(description));
    return made;
  }
  const boost::json::array* const steps = member(description, "decoders").if_array();
  if (steps == nullptr || steps->size() > kMaxSteps) {
    return invalid_argument("decoder Sequence without decoders, or with more than " +
                            std::to_string(kMaxSteps));
  }
  for (const boost::json::value& step : *steps) KVF_RETURN_IF_ERROR(made.add_step(step));
  return made;
}

// Whatever a step does to single tokens must come before Fuse joins them.
Status Decoder::add_step(const boost::json::value& step) {
  const std::string type(text_of(member(step, "type")));
  if (type == "Strip") return add_strip(step);
  if (fused_) return unsupported("decoder " + type + " after Fuse");
  if (type == "Fuse") {
    fused_ = true;
    return {};
  }
  if (type == "ByteFallback") {
    byte_fallback_ = true;
    return {};
  }
  if (type == "Replace") {
    if (byte_fallback_ || !marker_.empty()) {
      return unsupported("decoder Replace after ByteFallback or Metaspace");
    }
    KVF_ASSIGN_OR_RETURN(Replacement replacement, Replacement::make(step));
    replacements_.push_back(std::move(replacement));
    return {};
  }
  if (type == "Metaspace") {
    KVF_ASSIGN_OR_RETURN(const Metaspace metaspace, Metaspace::make(step));
    marker_ = metaspace.replacement;
    drops_first_space_ = metaspace.prepend != Metaspace::Prepend::kNever;
    return {};
  }
  return unsupported("decoder " + (type.empty() ? "null" : type) +
                     "; supported are ByteLevel, Metaspace, and Sequence of Replace, "
                     "ByteFallback, Metaspace, Fuse and Strip");
}

Status Decoder::add_strip(const boost::json::value& step) {
  const std::string_view content = text_of(member(step, "content"));
  const std::int64_t* const start = member(step, "start").if_int64();
  const std::int64_t* const stop = member(step, "stop").if_int64();
  if (!fused_ || strip_start_ != 0) return unsupported("decoder Strip other than once after Fuse");
  if (content.size() != 1 || start == nullptr || *start < 0 || *start > kMaxStrip) {
    return invalid_argument("decoder Strip needs one ASCII character as its content and a start " +
                            std::string("from 0 to ") + std::to_string(kMaxStrip));
  }
  if (stop == nullptr || *stop != 0) {
    return unsupported(
        "decoder Strip with a stop other than 0: the end of a text that streams is "
        "not known");
  }
  strip_what_ = content[0];
  strip_start_ = static_cast<std::size_t>(*start);
  return {};
}

std::string Decoder::text_of_token(std::string_view content) const {
  std::string text(content);
  for (const Replacement& replacement : replacements_) text = replacement.apply(text);
  return text;
}

Decoder::Piece Decoder::piece(std::string_view content) const {
  if (byte_level_) {
    // A token spelled outside the alphabet, as special ones may be, stands for itself.
    return {bytes_of_letters(content).value_or(std::string(content)), false};
  }
  std::string text = text_of_token(content);
  if (byte_fallback_) {
    if (const auto byte = fallback_byte(text)) {
      return {std::string(1, static_cast<char>(*byte)), true};
    }
  }
  if (!marker_.empty()) text = Replacement{marker_, " "}.apply(text);
  return {std::move(text), false};
}

std::string Decoder::first_bytes(std::string_view content) const {
  if (!drops_first_space_) return piece(content).bytes;
  return Replacement{marker_, ""}.apply(text_of_token(content));
}

}  // namespace kvferry::text
