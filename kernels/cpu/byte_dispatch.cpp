#include "kernels/cpu/byte_tables.h"

namespace kvferry::kernels {

const ByteKernels& byte_kernels(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return kByteAvx512;
    case Isa::kAvx2:
      return kByteAvx2;
    case Isa::kScalar:
      break;
  }
  return kByteScalar;
}

const ByteKernels& byte_kernels() { return byte_kernels(active_isa()); }

}  // namespace kvferry::kernels
