#include "text/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "text/utf8.h"

namespace kvferry::text {
namespace {

constexpr std::size_t kHighest = 0x30000;  // from here on nothing decomposes or combines

bool is_jamo_vowel_or_tail(char32_t c) { return c >= 0x1160 && c <= 0x11ff; }

// Canonical decomposition of one code point; at most 4 in Unicode 14.
std::size_t decompose(char32_t code_point, std::array<utf8proc_int32_t, 8>& to) {
  int boundary = 0;
  const utf8proc_ssize_t count = utf8proc_decompose_char(
      static_cast<utf8proc_int32_t>(code_point), to.data(),
      static_cast<utf8proc_ssize_t>(to.size()), UTF8PROC_DECOMPOSE, &boundary);
  return static_cast<std::size_t>(count);
}

// Composes in place what is in canonical order; how many are left.
std::size_t compose(utf8proc_int32_t* code_points, std::size_t count) {
  constexpr auto kCompose = static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE);
  return static_cast<std::size_t>(
      utf8proc_normalize_utf32(code_points, static_cast<utf8proc_ssize_t>(count), kCompose));
}

// What has a combining class or decomposes since Unicode 10. The normalizer of Hugging Face's
// tokenizers knows Unicode 9: for it these are like letters, and so they are here, or ids would
// differ. Found by asking tokenizers 0.23.3 for the NFD of each of Unicode 14 beside other marks.
struct CodePointRange {
  utf8proc_int32_t first, last;
};
constexpr std::array<CodePointRange, 33> kNewerThanNormalization = {{
    {0x7fd, 0x7fd},     {0x898, 0x89f},     {0x8ca, 0x8d3},     {0x9fe, 0x9fe},
    {0xc3c, 0xc3c},     {0xd3b, 0xd3c},     {0xeba, 0xeba},     {0x1715, 0x1715},
    {0x1abf, 0x1ace},   {0x1df6, 0x1dfa},   {0xa82c, 0xa82c},   {0x10d24, 0x10d27},
    {0x10eab, 0x10eac}, {0x10f46, 0x10f50}, {0x10f82, 0x10f85}, {0x11070, 0x11070},
    {0x1133b, 0x1133b}, {0x1145e, 0x1145e}, {0x11839, 0x1183a}, {0x11938, 0x11938},
    {0x1193d, 0x1193e}, {0x11943, 0x11943}, {0x119e0, 0x119e0}, {0x11a34, 0x11a34},
    {0x11a47, 0x11a47}, {0x11a99, 0x11a99}, {0x11d42, 0x11d42}, {0x11d44, 0x11d45},
    {0x11d97, 0x11d97}, {0x16ff0, 0x16ff1}, {0x1e130, 0x1e136}, {0x1e2ae, 0x1e2ae},
    {0x1e2ec, 0x1e2ef},
}};

bool is_newer_than_normalization(utf8proc_int32_t code_point) {
  const auto range =
      std::lower_bound(kNewerThanNormalization.begin(), kNewerThanNormalization.end(), code_point,
                       [](const CodePointRange& one, utf8proc_int32_t c) { return one.last < c; });
  return range != kNewerThanNormalization.end() && range->first <= code_point;
}

utf8proc_propval_t combining_class(utf8proc_int32_t code_point) {
  const utf8proc_propval_t of_unicode = utf8proc_get_property(code_point)->combining_class;
  return of_unicode == 0 || is_newer_than_normalization(code_point) ? 0 : of_unicode;
}

// By code point: whether it may not be taken over as it stands, because its normal form is another,
// it has a combining class or it can join what is before it. Made on first use, in milliseconds.
std::vector<bool> find_unstable() {
  std::vector<bool> unstable(kHighest, false);
  std::array<utf8proc_int32_t, 8> parts{};
  for (char32_t c = 0xc0; c < kHighest; ++c) {
    if (c >= 0xd800 && c < 0xe000) continue;
    const auto signed_c = static_cast<utf8proc_int32_t>(c);
    if (is_newer_than_normalization(signed_c)) continue;
    if (combining_class(signed_c) != 0 || is_jamo_vowel_or_tail(c)) unstable[c] = true;
    const std::size_t count = decompose(c, parts);
    for (std::size_t i = 1; i < count; ++i) unstable[static_cast<std::size_t>(parts[i])] = true;
    if (compose(parts.data(), count) != 1 || parts[0] != signed_c) unstable[c] = true;
  }
  return unstable;
}

bool is_unstable(char32_t code_point) {
  static const std::vector<bool> unstable = find_unstable();
  return code_point < kHighest && unstable[code_point];
}

// Appends the normal form of code points that begin with a starter, or at the text's begin.
void normalize_run(std::string_view run, std::vector<utf8proc_int32_t>& work, std::string& to) {
  work.clear();
  std::array<utf8proc_int32_t, 8> parts{};
  while (!run.empty()) {
    const std::size_t length = utf8_step(run).length;
    const std::size_t count = decompose(decode_utf8(run.substr(0, length)), parts);
    work.insert(work.end(), parts.begin(), parts.begin() + static_cast<std::ptrdiff_t>(count));
    run.remove_prefix(length);
  }
  // utf8proc's own ordering is quadratic in a run of marks; a stable sort is not.
  for (auto begin = work.begin(); begin != work.end();) {
    if (combining_class(*begin) == 0) {
      ++begin;
      continue;
    }
    const auto end =
        std::find_if(begin, work.end(), [](auto c) { return combining_class(c) == 0; });
    std::stable_sort(begin, end,
                     [](auto a, auto b) { return combining_class(a) < combining_class(b); });
    begin = end;
  }
  work.resize(compose(work.data(), work.size()));
  for (const utf8proc_int32_t c : work) append_utf8(static_cast<char32_t>(c), to);
}

}  // namespace

bool is_white_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0d) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
         c == 0x3000;
}

bool is_word_character(char32_t c) {
  if (c == 0x200c || c == 0x200d) return true;
  if ((c >= 0x24b6 && c <= 0x24e9) || (c >= 0x1f130 && c <= 0x1f149) ||
      (c >= 0x1f150 && c <= 0x1f169) || (c >= 0x1f170 && c <= 0x1f189)) {
    return true;
  }
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return false;
  }
}

std::string nfc(std::string_view text) {
  std::string normal;
  normal.reserve(text.size());
  std::vector<utf8proc_int32_t> work;
  std::size_t taken = 0;   // of the text, already in `normal`
  std::size_t before = 0;  // where the character before `at` begins
  std::size_t at = 0;
  const auto length_at = [&](std::size_t i) {
    return static_cast<std::uint8_t>(text[i]) < 0x80 ? 1 : utf8_step(text.substr(i)).length;
  };
  const auto unstable_at = [&](std::size_t i, std::size_t length) {
    // Below U+00C0 everything is stable: one byte, or a lead byte of 0xc2.
    return length > 1 && is_unstable(decode_utf8(text.substr(i, length)));
  };
  while (at < text.size()) {
    const std::size_t length = length_at(at);
    if (!unstable_at(at, length)) {
      before = at;
      at += length;
      continue;
    }
    // The run is the stable character before, which may take marks on, and all unstable ones.
    const std::size_t begin = std::max(taken, before);
    normal.append(text.substr(taken, begin - taken));
    std::size_t end = at + length;
    while (end < text.size()) {
      const std::size_t next = length_at(end);
      if (!unstable_at(end, next)) break;
      end += next;
    }
    normalize_run(text.substr(begin, end - begin), work, normal);
    taken = before = at = end;
  }
  return normal.append(text.substr(taken));
}

}  // namespace kvferry::text
