// How vocabularies write bytes. Byte-level ones (GPT-2) in an alphabet where printable Latin-1
// bytes stand for themselves, the 68 others for the code points from U+0100 on, in order; those
// with byte_fallback as "<0x0A>". Thread contract: pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace kvferry::text {

char32_t letter_of_byte(std::uint8_t byte);

// The bytes that `letters` (valid UTF-8) writes; none when a character is not in the alphabet.
std::optional<std::string> bytes_of_letters(std::string_view letters);

// "<0x0A>" for 10.
std::string fallback_token(std::uint8_t byte);
// 10 for "<0x0A>" or "<0x0a>"; none for anything else.
std::optional<std::uint8_t> fallback_byte(std::string_view token);

}  // namespace kvferry::text
