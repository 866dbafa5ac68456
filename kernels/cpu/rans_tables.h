// The rANS kernels of each instruction set. Internal to kernels/.
#pragma once

#include "kernels/rans_kernels.h"

namespace kvferry::kernels {

extern const RansKernels kRansScalar;
extern const RansKernels kRansAvx2;
extern const RansKernels kRansAvx512;

}  // namespace kvferry::kernels
