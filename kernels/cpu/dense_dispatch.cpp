#include "kernels/cpu/dense_tables.h"
#include "kernels/dense_kernels.h"

namespace kvferry::kernels {

const DenseKernels& dense_kernels(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return kDenseScalar;
    case Isa::kAvx2:
      return kDenseAvx2;
    case Isa::kAvx512:
      return kDenseAvx512;
  }
  return kDenseScalar;
}

const DenseKernels& dense_kernels() { return dense_kernels(active_isa()); }

}  // namespace kvferry::kernels
