#include "kernels/cpu/reconstruct_tables.h"

namespace kvferry::kernels {

const ReconstructKernels& reconstruct_kernels(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return kReconstructAvx512;
    case Isa::kAvx2:
      return kReconstructAvx2;
    case Isa::kScalar:
      break;
  }
  return kReconstructScalar;
}

const ReconstructKernels& reconstruct_kernels() { return reconstruct_kernels(active_isa()); }

}  // namespace kvferry::kernels
