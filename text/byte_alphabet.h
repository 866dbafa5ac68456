// The alphabet in which byte-level tokenizers write bytes (GPT-2): printable Latin-1 bytes stand
// for themselves, the 68 others for the code points from U+0100 on, in order. Thread contract: pure
// functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace kvferry::text {

char32_t letter_of_byte(std::uint8_t byte);

// The bytes that `letters` (valid UTF-8) writes; none when a character is not in the alphabet.
std::optional<std::string> bytes_of_letters(std::string_view letters);

}  // namespace kvferry::text
