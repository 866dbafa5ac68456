#include "text/utf8.h"

#include <cstdint>

namespace kvferry::text {
namespace {

struct Lead {
  std::size_t length = 0;  // 0: cannot begin a character
  std::uint8_t second_min = 0x80;
  std::uint8_t second_max = 0xbf;
};

Lead classify(std::uint8_t byte) {
  if (byte < 0x80) return {1};
  if (byte < 0xc2) return {};  // a continuation, or an overlong form of ASCII
  if (byte < 0xe0) return {2};
  if (byte == 0xe0) return {3, 0xa0, 0xbf};  // overlong below
  if (byte == 0xed) return {3, 0x80, 0x9f};  // surrogates above
  if (byte < 0xf0) return {3};
  if (byte == 0xf0) return {4, 0x90, 0xbf};  // overlong below
  if (byte < 0xf4) return {4};
  if (byte == 0xf4) return {4, 0x80, 0x8f};  // above U+10FFFF
  return {};
}

}  // namespace

Utf8Step utf8_step(std::string_view bytes) {
  if (bytes.empty()) return {};
  const Lead lead = classify(static_cast<std::uint8_t>(bytes[0]));
  if (lead.length == 0) return {1, false, false};
  for (std::size_t i = 1; i < lead.length; ++i) {
    if (i == bytes.size()) return {i, false, true};
    const auto byte = static_cast<std::uint8_t>(bytes[i]);
    const std::uint8_t min = i == 1 ? lead.second_min : 0x80;
    const std::uint8_t max = i == 1 ? lead.second_max : 0xbf;
    if (byte < min || byte > max) return {i, false, false};
  }
  return {lead.length, true, false};
}

bool is_utf8(std::string_view bytes) {
  while (!bytes.empty()) {
    const Utf8Step step = utf8_step(bytes);
    if (!step.valid) return false;
    bytes.remove_prefix(step.length);
  }
  return true;
}

std::string replace_invalid_utf8(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size());
  while (!bytes.empty()) {
    const Utf8Step step = utf8_step(bytes);
    text.append(step.valid ? bytes.substr(0, step.length) : kReplacement);
    bytes.remove_prefix(step.length);
  }
  return text;
}

void append_utf8(char32_t code_point, std::string& to) {
  const auto continuation = [&](int shift) {
    to += static_cast<char>(0x80 | (code_point >> shift & 0x3f));
  };
  if (code_point < 0x80) {
    to += static_cast<char>(code_point);
  } else if (code_point < 0x800) {
    to += static_cast<char>(0xc0 | code_point >> 6);
    continuation(0);
  } else if (code_point < 0x10000) {
    to += static_cast<char>(0xe0 | code_point >> 12);
    continuation(6);
    continuation(0);
  } else {
    to += static_cast<char>(0xf0 | code_point >> 18);
    continuation(12);
    continuation(6);
    continuation(0);
  }
}

char32_t decode_utf8(std::string_view character) {
  const auto at = [&](std::size_t i) {
    return static_cast<char32_t>(static_cast<std::uint8_t>(character[i]));
  };
  switch (character.size()) {
    case 1:
      return at(0);
    case 2:
      return (at(0) & 0x1f) << 6 | (at(1) & 0x3f);
    case 3:
      return (at(0) & 0x0f) << 12 | (at(1) & 0x3f) << 6 | (at(2) & 0x3f);
    default:
      break;
  }
  return (at(0) & 0x07) << 18 | (at(1) & 0x3f) << 12 | (at(2) & 0x3f) << 6 | (at(3) & 0x3f);
}

}  // namespace kvferry::text
