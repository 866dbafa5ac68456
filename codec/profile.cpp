#include "codec/profile.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>
#include <utility>

#include "base/yaml_config.h"
#include "codec/pipeline_codec.h"

namespace kvferry::codec {
namespace {

bool read_number(std::string_view text, std::uint32_t& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() && value < kMaxProfileLayers;
}

// "7" or "3-7".
bool read_layers(std::string_view key, std::uint32_t& first, std::uint32_t& last) {
  const std::size_t dash = key.find('-');
  if (!read_number(key.substr(0, dash), first)) return false;
  last = first;
  return dash == std::string_view::npos ||
         (read_number(key.substr(dash + 1), last) && first <= last);
}

// None where the file is wrong, which it has then been told.
std::optional<std::string> spec_of(YamlReader& file, const std::string& key) {
  if (!file.is_map(key)) {
    std::string spec = file.required_string(key);
    return spec.empty() ? std::nullopt : std::optional(std::move(spec));
  }
  YamlReader bits = file.map(key);
  const std::uint32_t k = bits.u32("nbits_key", 0, 1, 8), v = bits.u32("nbits_value", 0, 1, 8);
  if (!bits.has("nbits_key") || !bits.has("nbits_value")) {
    file.refuse(key, "needs nbits_key and nbits_value, or to be a spec such as hack(k=4,v=2)");
  }
  if (k == 0 || v == 0) return std::nullopt;
  return "hack(k=" + std::to_string(k) + ",v=" + std::to_string(v) + ")";
}

void add_layers(YamlReader& file, const std::string& key, StoragePtr storage, Profile& profile) {
  if (key == "default") {
    profile.otherwise = std::move(storage);
    return;
  }
  std::uint32_t first = 0, last = 0;
  if (!read_layers(key, first, last)) {
    file.refuse(key,
                "is not \"default\", a layer such as 0, or a range such as 3-7; layers are "
                "numbered from 0 to " +
                    std::to_string(kMaxProfileLayers - 1));
    return;
  }
  profile.layers.resize(std::max<std::size_t>(profile.layers.size(), last + 1));
  for (std::uint32_t layer = first; layer <= last; ++layer) {
    if (profile.layers[layer] != nullptr) {
      return file.refuse(key, "names layer " + std::to_string(layer) + " once more");
    }
    profile.layers[layer] = storage;
  }
}

template <class Function>
void for_each(const Profile& profile, Function function) {
  if (profile.otherwise != nullptr) function(*profile.otherwise);
  for (const StoragePtr& storage : profile.layers) {
    if (storage != nullptr) function(*storage);
  }
}

// What holds for all layers. One tile size does.
Result<CodecTraits> common_traits(const Profile& profile) {
  std::optional<CodecTraits> common;
  std::uint32_t other_tile = 0;
  for_each(profile, [&](const StorageStage& storage) {
    const CodecTraits traits = storage.traits();
    if (!common.has_value()) common = traits;
    common->lossless = common->lossless && traits.lossless;
    common->removes_bias = common->removes_bias || traits.removes_bias;
    if (traits.tile_tokens != common->tile_tokens) other_tile = traits.tile_tokens;
  });
  if (!common.has_value()) return invalid_argument("a profile names \"default\" or layers");
  if (other_tile != 0) {
    return invalid_argument("a profile has one tile size, not " +
                            std::to_string(common->tile_tokens) + " and " +
                            std::to_string(other_tile) + " tokens");
  }
  return *common;
}

}  // namespace

Result<std::shared_ptr<const Profile>> parse_profile(const std::string& content,
                                                     const std::string& name) {
  KVF_ASSIGN_OR_RETURN(YamlReader file, YamlReader::parse(content, name));
  auto profile = std::make_shared<Profile>();
  for (const std::string& key : file.keys()) {
    const std::optional<std::string> spec = spec_of(file, key);
    if (!spec.has_value()) continue;
    auto storage = make_storage(*spec);
    if (storage.ok()) {
      add_layers(file, key, *std::move(storage), *profile);
    } else {
      file.refuse(key, storage.status().message());
    }
  }
  KVF_RETURN_IF_ERROR(file.finish());
  auto traits = common_traits(*profile);
  if (!traits.ok()) return traits.status().with_context(name);
  profile->traits = *traits;
  return std::shared_ptr<const Profile>(std::move(profile));
}

}  // namespace kvferry::codec
