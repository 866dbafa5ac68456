#include "kernels/cpu/hack_encode_common.h"

namespace kvferry::kernels {

const HackEncodeKernels& hack_encode_kernels(Isa isa) {
  return isa == Isa::kAvx512 ? kHackEncodeAvx512 : kHackEncodeScalar;
}

const HackEncodeKernels& hack_encode_kernels() { return hack_encode_kernels(active_isa()); }

}  // namespace kvferry::kernels
