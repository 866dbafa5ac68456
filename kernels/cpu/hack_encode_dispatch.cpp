#include "kernels/cpu/hack_encode_common.h"

namespace kvferry::kernels {

const HackEncodeKernels& hack_encode_kernels(Isa isa) {
  if (isa == Isa::kAvx512) return kHackEncodeAvx512;
  return isa == Isa::kAvx2 ? kHackEncodeAvx2 : kHackEncodeScalar;
}

const HackEncodeKernels& hack_encode_kernels() { return hack_encode_kernels(active_isa()); }

}  // namespace kvferry::kernels
