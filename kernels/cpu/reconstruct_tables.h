// The table of each instruction set. Declarations only.
#pragma once

#include "kernels/reconstruct_kernels.h"

namespace kvferry::kernels {

// The definitions, code by code: hack_codes.cpp and paper_scalar.cpp.
void hack_reconstruct_scalar(const HackPlanes& planes, float* k, float* v);
void paper_reconstruct_scalar(const PaperPlanes& planes, float* k, float* v);

extern const ReconstructKernels kReconstructScalar;
extern const ReconstructKernels kReconstructAvx2;
extern const ReconstructKernels kReconstructAvx512;

}  // namespace kvferry::kernels
