// Dense values of the open dtype: what raw stores and what every open tile is.
// Thread contract: pure functions.
#pragma once

#include <cstddef>

#include "base/status.h"
#include "codec/codec.h"

namespace kvferry::codec {

// The index of the first of n values that is NaN or infinite, or n.
std::size_t first_not_finite(OpenDtype dtype, const std::byte* values, std::size_t n);

// kDataLoss when a value is NaN or infinite.
Status check_dense(OpenDtype dtype, const std::byte* values, std::size_t bytes);

// Attention over 64 dense tokens of one KV head, k and v [64][head_dim]; row r sees the first
// visible[r] tokens, all when visible is null.
void attend_dense(OpenDtype dtype, const std::byte* k, const std::byte* v, const QueryRows& queries,
                  const std::uint32_t* visible, kernels::AttentionStates states);

void widen(OpenDtype dtype, const std::byte* values, std::size_t n, float* out);

// What every codec asks of a geometry: heads that divide, counts that fit a segment's header.
Status check_geometry(const KvGeometry& geometry);

}  // namespace kvferry::codec
