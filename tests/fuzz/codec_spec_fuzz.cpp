// Any text as a codec's spec: refused with a character and what was expected there, or normalised
// to a text that means the same and is its own normal form, of a codec that keeps to its limits.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "codec/all.h"

namespace {

using namespace kvferry::codec;  // NOLINT: what this program is about

void require(bool holds) {
  if (!holds) std::abort();
}

void check_sizes(const Codec& codec) {
  const std::uint32_t whole = codec.tile_tokens();
  require(whole % kGridTokens == 0 && whole >= kGridTokens && whole <= kMaxTileTokens);
  for (const std::uint32_t head_dim : {64u, 80u, 256u}) {
    const KvGeometry geometry{2, 2, 4, head_dim};
    if (!codec.supports(geometry).ok()) continue;
    for (const std::uint32_t tokens : {1u, whole - 1, whole}) {
      require(codec.segment_bytes(geometry, 1, 0, tokens) > 64);
      require(codec.segment_bytes(geometry, 1, 1, tokens) ==
              codec.segment_bytes(geometry, 1, 7, tokens));
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto codec = make_codec(text, SpecFiles::kRefuse);
  if (!codec.ok()) {
    require(codec.status().message().starts_with("codec spec, character "));
    return 0;
  }
  const std::string& normal = (*codec)->spec();
  const auto again = make_codec(normal, SpecFiles::kRefuse);
  require(again.ok() && (*again)->spec() == normal && (*again)->id() == (*codec)->id());
  check_sizes(**codec);
  return 0;
}
