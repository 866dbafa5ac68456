// hadamard: the normalised Walsh-Hadamard transform of each head's K (with Q) and V. Orthogonal, so
// q . k stays; spreads an outlier channel over all channels. Its own inverse.
#include <bit>
#include <memory>
#include <string>

#include "codec/stages.h"

namespace kvferry::codec {
namespace {

class HadamardStage final : public DomainStage {
 public:
  std::string text() const override { return "hadamard"; }
  Status supports(const KvGeometry& geometry) const override {
    if (std::has_single_bit(geometry.head_dim)) return ok_status();
    return unsupported("hadamard: head_dim " + std::to_string(geometry.head_dim) +
                       " is not a power of two");
  }
  void apply_q(float* x, std::size_t heads, std::size_t head_dim) const override {
    kernels::dense_kernels().hadamard(x, heads, head_dim);
  }
  void apply_k(float* x, std::size_t heads, std::size_t head_dim) const override {
    kernels::dense_kernels().hadamard(x, heads, head_dim);
  }
  void apply_v(float* x, std::size_t heads, std::size_t head_dim) const override {
    kernels::dense_kernels().hadamard(x, heads, head_dim);
  }
  void undo_o(float* x, std::size_t heads, std::size_t head_dim) const override {
    kernels::dense_kernels().hadamard(x, heads, head_dim);
  }
  void write_k(float* x, std::size_t heads, std::size_t head_dim, std::uint16_t* out,
               std::size_t stride) const override {
    kernels::dense_kernels().hadamard_bf16(x, heads, head_dim, out, stride);
  }
  void write_v(float* x, std::size_t heads, std::size_t head_dim, std::uint16_t* out,
               std::size_t stride) const override {
    kernels::dense_kernels().hadamard_bf16(x, heads, head_dim, out, stride);
  }
};

}  // namespace

Result<Stage> make_hadamard_stage(const SpecStage& spec) {
  KVF_RETURN_IF_ERROR(SpecArguments(spec).check_keys({}));
  return Stage(std::make_shared<HadamardStage>());
}

}  // namespace kvferry::codec
