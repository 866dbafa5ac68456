// profile: a storage for each layer, out of a file. The spec's text names the content by digest, so
// that its id comes from the content alone.
#include <fstream>
#include <memory>
#include <string>
#include <utility>

#include "codec/artifacts.h"
#include "codec/profile.h"
#include "codec/stages.h"

namespace kvferry::codec {
namespace {

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
  void attend_heads(const KvGeometry& geometry, std::span<const HeadWork> works) const override {
    if (!works.empty()) of(works.front().id).attend_heads(geometry, works);
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
