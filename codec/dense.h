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

// Attention over dense tokens of one KV head, k and v [tokens][head_dim], tokens a multiple of 64;
// row r sees the first visible[r] of them, all when visible is null.
void attend_dense(OpenDtype dtype, std::uint32_t tokens, const std::byte* k, const std::byte* v,
                  const QueryRows& queries, const std::uint32_t* visible,
                  kernels::AttentionStates states);

// x: [heads][head_dim]; head h goes to out + h * stride, rounded to the dtype.
void narrow_heads(OpenDtype dtype, const float* x, std::size_t heads, std::size_t head_dim,
                  std::byte* out, std::size_t stride);

void widen(OpenDtype dtype, const std::byte* values, std::size_t n, float* out);

// What every codec asks of a geometry: heads that divide, counts that fit a segment's header.
Status check_geometry(const KvGeometry& geometry);

}  // namespace kvferry::codec
