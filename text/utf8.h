// UTF-8, as Unicode's table 3-7 has it: no surrogates, no overlong forms, nothing above U+10FFFF.
// What is not UTF-8 becomes U+FFFD, one for each maximal part that could have begun a character, as
// Python's errors='replace' does.
// Thread contract: pure functions.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace kvferry::text {

struct Utf8Step {
  std::size_t length =
      0;  // bytes of the character, or of the part to be replaced; 0 at the end only
  bool valid = false;
  bool truncated =
      false;  // not valid, but the end of the data cut it off: more bytes may complete it
};

// The character or broken part that `bytes` begins with.
Utf8Step utf8_step(std::string_view bytes);

bool is_utf8(std::string_view bytes);
std::string replace_invalid_utf8(std::string_view bytes);

// Appends the UTF-8 of a code point below U+110000.
void append_utf8(char32_t code_point, std::string& to);
// The code point of a valid character as utf8_step delimits it.
char32_t decode_utf8(std::string_view character);

inline constexpr std::string_view kReplacement = "\xef\xbf\xbd";

}  // namespace kvferry::text
