// The ceiling kernels of each instruction set. Internal to kernels/.
#pragma once

#include "kernels/ceilings.h"

namespace kvferry::kernels {

extern const CeilingKernels kCeilingsScalar;
extern const CeilingKernels kCeilingsAvx2;
extern const CeilingKernels kCeilingsAvx512;

}  // namespace kvferry::kernels
