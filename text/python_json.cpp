#include "text/python_json.h"

#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>

namespace kvferry::text {
namespace {

// repr of a float: the shortest digits that read back, with an exponent from 1e16 on and below
// 1e-4.
std::string python_float(double number) {
  const double size = std::fabs(number);
  const bool exponent = size != 0 && (size < 1e-4 || size >= 1e16);
  std::array<char, 64> digits{};
  const auto end =
      std::to_chars(digits.data(), digits.data() + digits.size(), number,
                    exponent ? std::chars_format::scientific : std::chars_format::fixed);
  std::string text(digits.data(), end.ptr);
  if (!exponent && text.find('.') == std::string::npos) text += ".0";
  return text;
}

void write(const boost::json::value& value, std::string& out) {
  const char* between = "";
  if (const auto* const object = value.if_object()) {
    out += '{';
    for (const auto& entry : *object) {
      out.append(between).append(python_json_string({entry.key().data(), entry.key().size()}));
      out += ": ";
      write(entry.value(), out);
      between = ", ";
    }
    out += '}';
  } else if (const auto* const array = value.if_array()) {
    out += '[';
    for (const boost::json::value& entry : *array) {
      out += between;
      write(entry, out);
      between = ", ";
    }
    out += ']';
  } else if (const auto* const text = value.if_string()) {
    out += python_json_string({text->data(), text->size()});
  } else if (const double* const number = value.if_double()) {
    out += python_float(*number);
  } else if (const std::int64_t* const integer = value.if_int64()) {
    out += std::to_string(*integer);
  } else if (const std::uint64_t* const natural = value.if_uint64()) {
    out += std::to_string(*natural);
  } else if (const bool* const truth = value.if_bool()) {
    out += *truth ? "true" : "false";
  } else {
    out += "null";
  }
}

}  // namespace

std::string python_json(const boost::json::value& value) {
  std::string out;
  write(value, out);
  return out;
}

std::string python_json_string(std::string_view text) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  constexpr std::string_view kEscaped = "\"\\\n\r\t\b\f";
  constexpr std::string_view kLetters = "\"\\nrtbf";
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<std::uint8_t>(c);
    if (const std::size_t at = kEscaped.find(c); at != std::string_view::npos) {
      out.append({'\\', kLetters[at]});
    } else if (byte < 0x20) {
      out.append("\\u00").append({kDigits[byte >> 4], kDigits[byte & 0xf]});
    } else {
      out += c;
    }
  }
  return out += '"';
}

}  // namespace kvferry::text
