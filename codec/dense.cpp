#include "codec/dense.h"

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

void attend_dense(OpenDtype dtype, const std::byte* k, const std::byte* v, const QueryRows& queries,
                  const std::uint32_t* visible, kernels::AttentionStates states) {
  const kernels::DenseKernels& table = kernels::dense_kernels();
  const kernels::Queries rows{queries.q, queries.score_add};
  if (dtype == OpenDtype::kBf16) {
    table.attend_dense_bf16(rows, reinterpret_cast<const std::uint16_t*>(k),
                            reinterpret_cast<const std::uint16_t*>(v), visible, states);
  } else {
    table.attend_dense_f32(rows, reinterpret_cast<const float*>(k),
                           reinterpret_cast<const float*>(v), visible, states);
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
