// Facts about code points, as Hugging Face's tokenizers sees them. Unicode 14 (utf8proc 2.8).
// Thread contract: pure functions.
#pragma once

#include <string>
#include <string_view>

namespace kvferry::text {

// White_Space, what \s means in the Rust and Oniguruma engines: 25 code points.
bool is_white_space(char32_t code_point);
// \w of Rust's regex: letters, marks, decimal and letter numbers, connectors, joiners, and the
// circled letters that are alphabetic.
bool is_word_character(char32_t code_point);

// Normalization form C of valid UTF-8, as of Unicode 9: tokenizers has no newer one. O(n log n),
// whatever the runs of combining marks.
std::string nfc(std::string_view text);

}  // namespace kvferry::text
