// rans and lossless: segments in fewer bytes on the wire, by entropy coding (codec/plane_coder.h).
#include <memory>
#include <string>

#include "codec/plane_coder.h"
#include "codec/stages.h"

namespace kvferry::codec {
namespace {

class PlaneStage final : public WireStage {
 public:
  explicit PlaneStage(Coded coded) : coded_(coded) {}

  std::string text() const override { return coded_ == Coded::kEverything ? "rans" : "lossless"; }
  std::size_t wrap(std::span<const Plane> planes, std::span<const std::byte> body,
                   std::span<std::byte> out) const override {
    return wrap_planes(coded_, planes, body, out);
  }
  Status unwrap(std::span<const Plane> planes, std::span<const std::byte> wire,
                std::span<std::byte> body) const override {
    return unwrap_planes(planes, wire, body);
  }

 private:
  Coded coded_;
};

Result<Stage> make_plane_stage(const SpecStage& spec, Coded coded) {
  KVF_RETURN_IF_ERROR(SpecArguments(spec).check_keys({}));
  return Stage(std::make_shared<PlaneStage>(coded));
}

}  // namespace

Result<Stage> make_rans_stage(const SpecStage& spec) {
  return make_plane_stage(spec, Coded::kEverything);
}

Result<Stage> make_lossless_stage(const SpecStage& spec) {
  return make_plane_stage(spec, Coded::kExponents);
}

}  // namespace kvferry::codec
