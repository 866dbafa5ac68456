#include "kernels/cpu/hack_common.h"

namespace kvferry::kernels {

// AVX2 runs the scalar functions: without VNNI its integer dots need pairwise sums that saturate,
// and no worker that matters for speed lacks AVX-512.
Isa hack_kernels_isa(Isa isa) { return isa == Isa::kAvx512 ? Isa::kAvx512 : Isa::kScalar; }

const HackKernels& hack_kernels(Isa isa) {
  return hack_kernels_isa(isa) == Isa::kAvx512 ? kHackAvx512 : kHackScalar;
}

const HackKernels& hack_kernels() { return hack_kernels(active_isa()); }

}  // namespace kvferry::kernels
