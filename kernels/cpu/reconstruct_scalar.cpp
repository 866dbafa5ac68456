#include "kernels/cpu/byte_tables.h"
#include "kernels/cpu/reconstruct_tables.h"
#include "kernels/dense_kernels.h"

namespace kvferry::kernels {
namespace {

constexpr std::size_t kMostTokens = 128;

// What `reconstruct` writes of `tokens` tokens, rounded.
template <class Planes>
void round_values(void (*reconstruct)(const Planes&, float*, float*), const Planes& planes,
                  std::size_t tokens, std::uint16_t* k, std::uint16_t* v) {
  float k_values[kMostTokens * kMaxHeadDim], v_values[kMostTokens * kMaxHeadDim];
  reconstruct(planes, k_values, v_values);
  kByteScalar.to_finite_bf16(k_values, tokens * planes.head_dim, k);
  kByteScalar.to_finite_bf16(v_values, tokens * planes.head_dim, v);
}

void hack_bf16(const HackPlanes& planes, std::uint16_t* k, std::uint16_t* v) {
  round_values(hack_reconstruct_scalar, planes, kHackBlock, k, v);
}
void paper_bf16(const PaperPlanes& planes, std::uint16_t* k, std::uint16_t* v) {
  round_values(paper_reconstruct_scalar, planes, planes.tile_tokens(), k, v);
}

}  // namespace

const ReconstructKernels kReconstructScalar = {hack_reconstruct_scalar, paper_reconstruct_scalar,
                                               hack_bf16, paper_bf16};

}  // namespace kvferry::kernels
