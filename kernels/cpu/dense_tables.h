// The table of each instruction set's translation unit. These are the only symbols that such a unit
// exports: everything else in it has internal linkage, so that the linker can never give code
// compiled for a higher instruction set to a lower one.
#pragma once

#include "kernels/dense_kernels.h"

namespace kvferry::kernels {

extern const DenseKernels kDenseScalar;
extern const DenseKernels kDenseAvx2;
extern const DenseKernels kDenseAvx512;

}  // namespace kvferry::kernels
