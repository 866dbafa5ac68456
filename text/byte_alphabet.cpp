#include "text/byte_alphabet.h"

#include <array>
#include <charconv>

#include "text/utf8.h"

namespace kvferry::text {
namespace {

constexpr bool stands_for_itself(int byte) {
  return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

constexpr std::size_t kOthers = 68;

struct Alphabet {
  std::array<char32_t, 256> letter{};
  std::array<std::uint8_t, kOthers> other{};  // of code point 0x100 + i
};

constexpr Alphabet make_alphabet() {
  Alphabet alphabet;
  std::size_t next = 0;
  for (int byte = 0; byte < 256; ++byte) {
    const auto index = static_cast<std::size_t>(byte);
    if (stands_for_itself(byte)) {
      alphabet.letter[index] = static_cast<char32_t>(byte);
    } else {
      alphabet.other[next] = static_cast<std::uint8_t>(byte);
      alphabet.letter[index] = static_cast<char32_t>(0x100 + next++);
    }
  }
  return alphabet;
}

constexpr Alphabet kAlphabet = make_alphabet();

}  // namespace

char32_t letter_of_byte(std::uint8_t byte) { return kAlphabet.letter[byte]; }

std::optional<std::string> bytes_of_letters(std::string_view letters) {
  std::string bytes;
  while (!letters.empty()) {
    const Utf8Step step = utf8_step(letters);
    if (!step.valid) return std::nullopt;
    const char32_t letter = decode_utf8(letters.substr(0, step.length));
    if (letter >= 0x100 && letter < 0x100 + kOthers) {
      bytes += static_cast<char>(kAlphabet.other[letter - 0x100]);
    } else if (letter < 0x100 && stands_for_itself(static_cast<int>(letter))) {
      bytes += static_cast<char>(letter);
    } else {
      return std::nullopt;
    }
    letters.remove_prefix(step.length);
  }
  return bytes;
}

std::string fallback_token(std::uint8_t byte) {
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  return {'<', '0', 'x', kDigits[byte >> 4], kDigits[byte & 0xf], '>'};
}

std::optional<std::uint8_t> fallback_byte(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || !token.ends_with('>')) return std::nullopt;
  std::uint8_t byte = 0;
  const char* const end = token.data() + 5;
  const auto [stopped, error] = std::from_chars(token.data() + 3, end, byte, 16);
  if (error != std::errc() || stopped != end) return std::nullopt;
  return byte;
}

}  // namespace kvferry::text
