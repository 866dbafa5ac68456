#include "codec/dense.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "kernels/hack_encode_kernels.h"

namespace kvferry::codec {

std::size_t first_not_finite(OpenDtype dtype, const std::byte* values, std::size_t n) {
  if (dtype == OpenDtype::kBf16) {
    return kernels::hack_encode_kernels().first_not_finite(
        reinterpret_cast<const std::uint16_t*>(values), n);
  }
  for (std::size_t i = 0; i < n; ++i) {
    float value;
    std::memcpy(&value, values + i * sizeof(value), sizeof(value));
    if (!std::isfinite(value)) return i;
  }
  return n;
}

Status check_dense(OpenDtype dtype, const std::byte* values, std::size_t bytes) {
  const std::size_t n = bytes / bytes_of(dtype);
  const std::size_t bad = first_not_finite(dtype, values, n);
  if (bad == n) return ok_status();
  return {Code::kDataLoss, "value " + std::to_string(bad) + " is NaN or infinite"};
}

void widen(OpenDtype dtype, const std::byte* values, std::size_t n, float* out) {
  if (dtype == OpenDtype::kF32) {
    std::memcpy(out, values, n * sizeof(float));
    return;
  }
  kernels::dense_kernels().from_bf16(reinterpret_cast<const std::uint16_t*>(values), n, out);
}

void narrow_heads(OpenDtype dtype, const float* x, std::size_t heads, std::size_t head_dim,
                  std::byte* out, std::size_t stride) {
  for (std::size_t h = 0; h < heads; ++h, x += head_dim, out += stride) {
    if (dtype == OpenDtype::kF32) {
      std::memcpy(out, x, head_dim * sizeof(float));
    } else {
      kernels::dense_kernels().to_bf16(x, head_dim, reinterpret_cast<std::uint16_t*>(out));
    }
  }
}

namespace {

// One grid block.
void attend_dense_block(OpenDtype dtype, const std::byte* k, const std::byte* v,
                        const kernels::Queries& queries, const std::uint32_t* visible,
                        kernels::AttentionStates states) {
  const kernels::DenseKernels& table = kernels::dense_kernels();
  if (dtype == OpenDtype::kBf16) {
    table.attend_dense_bf16(queries, reinterpret_cast<const std::uint16_t*>(k),
                            reinterpret_cast<const std::uint16_t*>(v), visible, states);
  } else {
    table.attend_dense_f32(queries, reinterpret_cast<const float*>(k),
                           reinterpret_cast<const float*>(v), visible, states);
  }
}

// One grid block of a longer tile: what each row sees of it has to be counted, which is done for a
// few rows at a time.
void attend_part_block(OpenDtype dtype, const std::byte* k, const std::byte* v,
                       const kernels::Queries& queries, const std::uint32_t* visible,
                       std::uint32_t first_token, kernels::AttentionStates states) {
  constexpr std::uint32_t kRows = 64;
  const std::uint32_t dim = states.head_dim;
  for (std::uint32_t row = 0; row < states.rows; row += kRows) {
    const std::uint32_t rows = std::min(kRows, states.rows - row);
    std::uint32_t here[kRows];
    for (std::uint32_t r = 0; r < rows; ++r) {
      here[r] = std::min(std::max(visible[row + r], first_token) - first_token, kGridTokens);
    }
    const float* add = queries.score_add;
    attend_dense_block(
        dtype, k, v,
        {queries.q + std::size_t{row} * dim,
         add == nullptr ? nullptr : add + std::size_t{row} * kGridTokens,
         {}},
        here, {states.m + row, states.l + row, states.o + std::size_t{row} * dim, rows, dim});
  }
}

}  // namespace

void attend_dense(OpenDtype dtype, std::uint32_t tokens, const std::byte* k, const std::byte* v,
                  const QueryRows& queries, const std::uint32_t* visible,
                  kernels::AttentionStates states) {
  const std::size_t bytes = std::size_t{kGridTokens} * states.head_dim * bytes_of(dtype);
  for (std::uint32_t block = 0; block < tokens / kGridTokens; ++block, k += bytes, v += bytes) {
    const kernels::Queries rows = queries.block(block);
    if (tokens == kGridTokens || visible == nullptr) {
      attend_dense_block(dtype, k, v, rows, visible, states);
    } else {
      attend_part_block(dtype, k, v, rows, visible, block * kGridTokens, states);
    }
  }
}

Status check_geometry(const KvGeometry& geometry) {
  constexpr std::uint32_t kMost = std::numeric_limits<std::uint16_t>::max();
  if (geometry.layers == 0 || geometry.kv_heads == 0 || geometry.q_heads == 0 ||
      geometry.head_dim == 0) {
    return invalid_argument("KV geometry: layers, heads and head_dim must not be zero");
  }
  if (geometry.layers > kMost || geometry.kv_heads > kMost) {
    return unsupported("KV geometry: at most 65535 layers and KV heads");
  }
  if (geometry.q_heads % geometry.kv_heads != 0) {
    return unsupported("KV geometry: " + std::to_string(geometry.q_heads) +
                       " query heads are not a multiple of " + std::to_string(geometry.kv_heads) +
                       " KV heads");
  }
  if (geometry.head_dim % 16 != 0 || geometry.head_dim > kernels::kMaxHeadDim) {
    return unsupported("KV geometry: head_dim " + std::to_string(geometry.head_dim) +
                       " is not a multiple of 16 up to " + std::to_string(kernels::kMaxHeadDim));
  }
  return ok_status();
}

}  // namespace kvferry::codec
