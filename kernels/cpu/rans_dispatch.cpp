#include "kernels/cpu/rans_tables.h"

namespace kvferry::kernels {

const RansKernels& rans_kernels(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return kRansAvx512;
    case Isa::kAvx2:
      return kRansAvx2;
    case Isa::kScalar:
      break;
  }
  return kRansScalar;
}

const RansKernels& rans_kernels() { return rans_kernels(active_isa()); }

}  // namespace kvferry::kernels
