// What codes mean, in f32: for peers that ask, for tests, and for attention that dequantizes first.
//
// Thread contract: pure functions, scratch on the stack. Values are equal on every instruction set:
// each is one rounding of scale * code + minimum, and one more where a row or column multiplies it,
// saturated to the largest finite f32.
#pragma once

#include <cstdint>

#include "kernels/hack_kernels.h"
#include "kernels/isa.h"
#include "kernels/paper_kernels.h"

namespace kvferry::kernels {

struct ReconstructKernels {
  // k, v: [64][head_dim].
  void (*hack)(const HackPlanes& planes, float* k, float* v);
  // k, v: [T][head_dim]; those of tokens that are not attended to are unspecified.
  void (*paper)(const PaperPlanes& planes, float* k, float* v);
  // The same rounded to bf16, to nearest even; what is beyond the largest bf16 becomes that.
  void (*hack_bf16)(const HackPlanes& planes, std::uint16_t* k, std::uint16_t* v);
  void (*paper_bf16)(const PaperPlanes& planes, std::uint16_t* k, std::uint16_t* v);
};

const ReconstructKernels& reconstruct_kernels(Isa isa);
const ReconstructKernels& reconstruct_kernels();

}  // namespace kvferry::kernels
