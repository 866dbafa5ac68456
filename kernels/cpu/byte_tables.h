// The table of each instruction set's translation unit, the only symbol that it exports.
#pragma once

#include "kernels/byte_kernels.h"

namespace kvferry::kernels {

extern const ByteKernels kByteScalar;
extern const ByteKernels kByteAvx2;
extern const ByteKernels kByteAvx512;

}  // namespace kvferry::kernels
