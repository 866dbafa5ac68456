// profile: a storage for each layer, out of a file.
//
//   default: hack(k=4,v=2)                 # of layers that are not named
//   0: hack(k=8,v=8)
//   1-7: hack(k=4,v=4,range=search)
//   12: {nbits_key: 4, nbits_value: 2}     # as KVTuner's files have it: hack(k=4,v=2)
//
// The spec's text names the content by digest, so that its id comes from the content alone.
#include <algorithm>
#include <charconv>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/yaml_config.h"
#include "codec/artifacts.h"
#include "codec/pipeline_codec.h"
#include "codec/stages.h"

namespace kvferry::codec {
namespace {

constexpr std::uint32_t kMaxLayers = 4096;

struct Profile {
  CodecTraits traits;
  StoragePtr otherwise;            // of layers that are not named; null: there are none
  std::vector<StoragePtr> layers;  // up to the last one named; null: not named

  // Null where the profile says nothing of the layer.
  const StorageStage* of(std::uint32_t layer) const {
    return layer < layers.size() && layers[layer] != nullptr ? layers[layer].get()
                                                             : otherwise.get();
  }
  template <class Function>
  void for_each(Function function) const {
    if (otherwise != nullptr) function(*otherwise);
    for (const StoragePtr& storage : layers) {
      if (storage != nullptr) function(*storage);
    }
  }
};

bool read_number(std::string_view text, std::uint32_t& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() && value < kMaxLayers;
}

// "7" or "3-7".
bool read_layers(std::string_view key, std::uint32_t& first, std::uint32_t& last) {
  const std::size_t dash = key.find('-');
  if (!read_number(key.substr(0, dash), first)) return false;
  last = first;
  return dash == std::string_view::npos ||
         (read_number(key.substr(dash + 1), last) && first <= last);
}

std::string spec_of(YamlReader& file, const std::string& key) {
  if (!file.is_map(key)) return file.required_string(key);
  YamlReader bits = file.map(key);
  const std::uint32_t k = bits.u32("nbits_key", 0, 1, 8), v = bits.u32("nbits_value", 0, 1, 8);
  if (!bits.has("nbits_key") || !bits.has("nbits_value")) {
    file.refuse(key, "needs nbits_key and nbits_value, or to be a spec such as hack(k=4,v=2)");
  }
  return "hack(k=" + std::to_string(k) + ",v=" + std::to_string(v) + ")";
}

void add_layers(YamlReader& file, const std::string& key, StoragePtr storage, Profile& profile) {
  if (key == "default") {
    profile.otherwise = std::move(storage);
    return;
  }
  std::uint32_t first = 0, last = 0;
  if (!read_layers(key, first, last)) {
    file.refuse(key, "is not \"default\", a layer such as 0, or a range such as 3-7");
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

// What holds for all layers. One tile size does.
Result<CodecTraits> common_traits(const Profile& profile) {
  std::optional<CodecTraits> common;
  std::uint32_t other_tile = 0;
  profile.for_each([&](const StorageStage& storage) {
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

Result<std::shared_ptr<const Profile>> parse_profile(const std::string& content,
                                                     const std::string& name) {
  KVF_ASSIGN_OR_RETURN(YamlReader file, YamlReader::parse(content, name));
  auto profile = std::make_shared<Profile>();
  for (const std::string& key : file.keys()) {
    const std::string spec = spec_of(file, key);
    auto storage = make_storage(spec);
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

class ProfileStage final : public StorageStage {
 public:
  ProfileStage(std::string digest, std::shared_ptr<const Profile> profile)
      : digest_(std::move(digest)), profile_(std::move(profile)) {}

  std::string text() const override { return "profile(" + digest_ + ")"; }
  std::string layer_text(std::uint32_t layer) const override {
    const StorageStage* storage = profile_ == nullptr ? nullptr : profile_->of(layer);
    return storage == nullptr ? text() : storage->text();
  }
  std::string missing_artifact() const override { return profile_ == nullptr ? digest_ : ""; }
  CodecTraits traits() const override {
    return profile_ == nullptr ? CodecTraits() : profile_->traits;
  }
  Status supports(const KvGeometry& geometry) const override;
  SegmentKind kind(TileId id) const override { return of(id).kind(id); }
  Bits bits(TileId id) const override { return of(id).bits(id); }
  std::size_t head_bytes(const KvGeometry& geometry, TileId id) const override {
    return of(id).head_bytes(geometry, id);
  }
  std::vector<Plane> planes(const KvGeometry& geometry, TileId id) const override {
    return of(id).planes(geometry, id);
  }
  void encode_head(const KvGeometry& geometry, TileId id, std::uint32_t kv_head, const std::byte* k,
                   const std::byte* v, std::byte* out) const override {
    of(id).encode_head(geometry, id, kv_head, k, v, out);
  }
  Status validate_head(const KvGeometry& geometry, TileId id,
                       const std::byte* part) const override {
    return of(id).validate_head(geometry, id, part);
  }
  void attend_head(const KvGeometry& geometry, TileId id, const std::byte* part,
                   const QueryRows& queries, kernels::AttentionStates states) const override {
    of(id).attend_head(geometry, id, part, queries, states);
  }
  void reconstruct_head(const KvGeometry& geometry, TileId id, const std::byte* part, float* k,
                        float* v) const override {
    of(id).reconstruct_head(geometry, id, part, k, v);
  }
  void attend_open_head(TileId id, std::uint32_t kv_head, const std::byte* k, const std::byte* v,
                        const QueryRows& queries, const std::uint32_t* visible,
                        kernels::AttentionStates states) const override {
    of(id).attend_open_head(id, kv_head, k, v, queries, visible, states);
  }

 private:
  const StorageStage& of(TileId id) const { return *profile_->of(id.layer); }

  std::string digest_;
  std::shared_ptr<const Profile> profile_;  // null: the artefact is not here
};

Status ProfileStage::supports(const KvGeometry& geometry) const {
  for (std::uint32_t layer = 0; layer < geometry.layers; ++layer) {
    const StorageStage* storage = profile_->of(layer);
    if (storage == nullptr) {
      return unsupported("profile: it says nothing of layer " + std::to_string(layer) +
                         "; add a line for it or \"default\"");
    }
    KVF_RETURN_IF_ERROR(
        storage->supports(geometry).with_context("profile, layer " + std::to_string(layer)));
  }
  if (profile_->layers.size() <= geometry.layers) return ok_status();
  return unsupported("profile: it names layer " + std::to_string(profile_->layers.size() - 1) +
                     ", the model has " + std::to_string(geometry.layers));
}

Result<std::string> read_file(const SpecArgument& argument) {
  std::ifstream file(argument.value, std::ios::binary);
  std::string content(kMaxArtifactBytes + 1, '\0');
  file.read(content.data(), static_cast<std::streamsize>(content.size()));
  const std::streamsize size = file.gcount();
  if (size == 0 || file.bad()) {
    return spec_error(argument.value_position, "a file that can be read, or a digest such as " +
                                                   artifact_digest("") + "; \"" + argument.value +
                                                   "\" cannot be read or is empty");
  }
  content.resize(static_cast<std::size_t>(size));
  return content;
}

}  // namespace

Result<Stage> make_profile_stage(const SpecStage& spec) {
  if (spec.arguments.size() != 1 || !spec.arguments[0].key.empty()) {
    return spec_error(spec.position, "profile(FILE) or profile(DIGEST)");
  }
  const SpecArgument& argument = spec.arguments[0];
  std::string digest = argument.value;
  if (!is_artifact_digest(digest)) {
    KVF_ASSIGN_OR_RETURN(std::string content, read_file(argument));
    // Read once before it is kept: what is kept stays.
    KVF_RETURN_IF_ERROR(parse_profile(content, argument.value).status());
    KVF_ASSIGN_OR_RETURN(digest, add_artifact(std::move(content)));
  }
  std::shared_ptr<const Profile> profile;
  if (const auto content = find_artifact(digest)) {
    KVF_ASSIGN_OR_RETURN(profile, parse_profile(*content, digest));
  }
  return Stage(std::make_shared<ProfileStage>(std::move(digest), std::move(profile)));
}

}  // namespace kvferry::codec
