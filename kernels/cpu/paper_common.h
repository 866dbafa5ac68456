// What the scalar and the AVX-512 kernels of layout=paper share. Plain data and declarations only,
// as in hack_common.h.
#pragma once

#include <cstdint>

#include "kernels/cpu/hack_common.h"
#include "kernels/paper_kernels.h"

namespace kvferry::kernels {

inline constexpr std::uint32_t kPaperMaxTokens = 128;  // of a tile
inline constexpr std::uint32_t kPaperMaxDim = 256;     // head_dim
inline constexpr std::uint32_t kPaperMaxParts = 8;     // of channels: 256 / 32
inline constexpr std::uint32_t kPaperMaxSpans = 2;     // of tokens: 64 / 32

// Ranges of queries and weights below kHackTiny count as zero: 255 / range must be finite. That
// moves a query by less than 2^-118. A row with a score at or beyond kHackHuge, and every row where
// the values of the tile could sum to it, is computed by paper_attend_row_exact.

// Attends one row in double precision over what the codes mean. row indexes states; queries is that
// of all states.rows rows.
void paper_attend_row_exact(const PaperPlanes& planes, const Queries& queries,
                            AttentionStates states, std::uint32_t row);

// PaperKernels::round_stochastic for any instruction set.
void paper_round_stochastic(const HackBlock& block, std::uint32_t bits, const std::uint16_t* scale,
                            const std::uint16_t* min, const PaperRandom& random,
                            std::uint8_t* codes);

extern const PaperKernels kPaperScalar;
extern const PaperKernels kPaperAvx2;
extern const PaperKernels kPaperAvx512;

}  // namespace kvferry::kernels
