// What the attention kernels of hack share. Plain data and declarations only: a header that a file
// compiled for AVX2 or AVX-512 includes must not define functions the linker could pick for
// everybody.
#pragma once

#include <cstdint>

#include "kernels/hack_kernels.h"

namespace kvferry::kernels {

// Below this, the largest |q~| of a group (or p~) counts as zero: 127 / max and 255 / max must be
// finite. It leaves out less than 64 * 255 * 2^-118 of a score.
inline constexpr float kHackTiny = 0x1p-118f;

// A row whose sums could pass this is computed by hack_attend_row_exact. Less than half of the
// largest f32's last bit, so that a state at the largest f32 stays there when such a sum is added.
inline constexpr float kHackHuge = 1e30f;

// The largest sum of products of p' and codes.
inline constexpr float kHackMaxVDot = 64.0f * 255.0f * 255.0f;

// One query row over one tile.
struct HackRowState {
  float m, l;
  const float* o;  // [head_dim]
};
void hack_merge_row(const HackRowState& tile, AttentionStates states, std::uint32_t row);

// Attends one row in double precision over what the codes mean, for rows whose f32 sums would
// overflow. row indexes states; queries begin with that row. Saturates what leaves f32.
void hack_attend_row_exact(const HackPlanes& planes, const Queries& queries, AttentionStates states,
                           std::uint32_t row);

// The queries without their first `rows`.
inline Queries skip_rows(const Queries& queries, std::size_t rows, std::size_t head_dim) {
  return {queries.q + rows * head_dim,
          queries.score_add == nullptr ? nullptr : queries.score_add + rows * 64};
}

extern const HackKernels kHackScalar;
extern const HackKernels kHackAvx2;
extern const HackKernels kHackAvx512;

}  // namespace kvferry::kernels
