#include "kernels/cpu/ceilings_tables.h"

namespace kvferry::kernels {

const CeilingKernels& ceiling_kernels(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return kCeilingsAvx512;
    case Isa::kAvx2:
      return kCeilingsAvx2;
    case Isa::kScalar:
      break;
  }
  return kCeilingsScalar;
}

}  // namespace kvferry::kernels
