#include "kernels/cpu/hack_common.h"

namespace kvferry::kernels {

const HackKernels& hack_kernels(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return kHackAvx512;
    case Isa::kAvx2:
      return kHackAvx2;
    case Isa::kScalar:
      break;
  }
  return kHackScalar;
}

const HackKernels& hack_kernels() { return hack_kernels(active_isa()); }

}  // namespace kvferry::kernels
