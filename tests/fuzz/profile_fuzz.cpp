// Any text as the content of a profile's file: refused by name, or a storage for each layer that it
// names, of one tile size, with parts that add up and texts that mean the same again.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "codec/pipeline_codec.h"
#include "codec/profile.h"

namespace {

using namespace kvferry::codec;  // NOLINT: what this program is about

void require(bool holds) {
  if (!holds) std::abort();
}

void check_storage(const StorageStage& storage, const CodecTraits& common, std::uint32_t layer) {
  require(storage.traits().tile_tokens == common.tile_tokens);
  require(storage.traits().lossless || !common.lossless);
  require(storage.missing_artifact().empty());  // profiles do not nest
  const auto again = make_storage(storage.text());
  require(again.ok() && (*again)->text() == storage.text());
  for (const std::uint32_t head_dim : {64u, 80u, 256u}) {
    const KvGeometry geometry{layer + 1, 2, 4, head_dim};
    if (!storage.supports(geometry).ok()) continue;
    for (const std::uint32_t tile : {0u, 1u}) {
      std::size_t bytes = 0;
      for (const Plane& plane : storage.planes(geometry, {layer, tile})) bytes += plane.bytes;
      require(bytes == storage.head_bytes(geometry, {layer, tile}) && bytes % 64 == 0);
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string content(reinterpret_cast<const char*>(data), size);
  const auto profile = parse_profile(content, "profile");
  if (!profile.ok()) {
    require(profile.status().message().starts_with("profile"));
    return 0;
  }
  const Profile& p = **profile;
  require(p.layers.size() <= kMaxProfileLayers);
  require(p.layers.empty() ? p.otherwise != nullptr : p.layers.back() != nullptr);
  const auto named = static_cast<std::uint32_t>(p.layers.size());
  for (std::uint32_t layer = 0; layer <= named; ++layer) {
    const bool is_named = layer < named && p.layers[layer] != nullptr;
    require((p.of(layer) == nullptr) == (!is_named && p.otherwise == nullptr));
    // A range's layers share one storage.
    const bool seen = layer > 0 && p.of(layer) == p.of(layer - 1);
    if (p.of(layer) != nullptr && !seen) check_storage(*p.of(layer), p.traits, layer);
  }
  return 0;
}
