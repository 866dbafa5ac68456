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

// balance: divisions of channels and of tokens, by turns. On synthetic tiles whose rows, columns or
// both have deviations e^N(0, 0.5), eight leave an imbalance within 1 % of what sixteen do.
inline constexpr int kHackBalanceSteps = 8;

// Of a variance, at least this part of the mean square: of rows and columns that are nearly
// constant, the difference of the two sums is mostly rounding.
inline constexpr float kHackLeastVariance = 0x1p-10f;

// Rows and columns with a lower mean square than this, of a tile whose largest value is about 1,
// count as balanced.
inline constexpr float kHackLeastSquare = 0x1p-80f;

void hack_balance_scalar(const std::uint16_t* x, std::uint32_t tokens, std::uint32_t head_dim,
                         std::uint16_t* token_factor, std::uint16_t* channel_factor);

// A power of two near the inverse of the largest of n values: with it no square overflows.
float hack_inverse_magnitude(const std::uint16_t* x, std::size_t n);

extern const HackEncodeKernels kHackEncodeScalar;
extern const HackEncodeKernels kHackEncodeAvx2;
extern const HackEncodeKernels kHackEncodeAvx512;

}  // namespace kvferry::kernels
