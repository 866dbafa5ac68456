// tokenizer.json, whatever is in it: it is refused or it tokenizes, within limits.
// Input: the file, and behind a NUL byte (none: nothing) the text to encode.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "text/all.h"

using kvferry::text::Detokenizer;
using kvferry::text::is_utf8;
using kvferry::text::Tokenizer;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::size_t end = input.find('\0');
  const auto tokenizer = Tokenizer::parse(input.substr(0, end), "{}");
  if (!tokenizer.ok() || end == std::string_view::npos) return 0;
  const auto ids = (*tokenizer)->encode(input.substr(end + 1), true);
  if (!ids.ok()) return 0;
  Detokenizer detokenizer(*tokenizer);
  for (const std::int32_t id : *ids) {
    if (id < 0 || id >= (*tokenizer)->vocab_size()) std::abort();
    if (!is_utf8(detokenizer.feed(id))) std::abort();
  }
  if (!is_utf8(detokenizer.finish())) std::abort();
  return 0;
}
