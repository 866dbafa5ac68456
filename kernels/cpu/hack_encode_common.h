// What the encoding kernels of hack share. Plain data and declarations only, as in hack_common.h.
#pragma once

#include "kernels/hack_encode_kernels.h"

namespace kvferry::kernels {

// search: the shrink factors of half the range about its centre, tried in this order; the first
// of equals wins. Chosen on Gaussian and Laplacian columns of 64 (docs/codecs.md).
inline constexpr int kHackShrinks = 9;
inline constexpr float kHackShrink[kHackShrinks] = {1.0f,    0.9375f, 0.875f,  0.8125f, 0.75f,
                                                    0.6875f, 0.625f,  0.5625f, 0.5f};

inline constexpr int kHackFits = 2;  // rounds of least squares

extern const HackEncodeKernels kHackEncodeScalar;
extern const HackEncodeKernels kHackEncodeAvx2;
extern const HackEncodeKernels kHackEncodeAvx512;

}  // namespace kvferry::kernels
