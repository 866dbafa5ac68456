// Row kernels: norm, rope, activation, conversions, Hadamard. Included only by dense_<isa>.cpp.
// Those written as plain loops use no sum and no fused operation, so the compiler may vectorise
// them as it likes: every element is the same few IEEE operations.
#pragma once

#include "kernels/cpu/dense_vec.h"

namespace kvferry::kernels {
namespace {

// Sixteen partial sums (lane i takes elements i, i + 16, ...), then the tree of reduce_add; no
// fused operation, so the bits are equal on every instruction set.
float sum_of_squares(const float* x, std::size_t n) {
  V sums[kParts];
  for (V& sum : sums) sum = zero();
  const std::size_t whole = n - n % 16;
  for (std::size_t i = 0; i < whole; i += 16) {
    for (int part = 0; part < kParts; ++part) {
      const V v = load(x + i + static_cast<std::size_t>(part * kLanes));
      sums[part] = add(sums[part], mul(v, v));
    }
  }
  if (whole != n) {
    alignas(64) float tail[16] = {};
    for (std::size_t i = whole; i < n; ++i) tail[i - whole] = x[i];
    for (int part = 0; part < kParts; ++part) {
      const V v = load(tail + part * kLanes);
      sums[part] = add(sums[part], mul(v, v));
    }
  }
  return reduce_add(sums);
}

void rms_norm(const float* x, const float* weight, float eps, std::size_t n, float* out) {
  if (n == 0) return;
  const float mean = sum_of_squares(x, n) / static_cast<float>(n);
  const float inverse = 1.0f / __builtin_sqrtf(mean + eps);
  for (std::size_t i = 0; i < n; ++i) out[i] = x[i] * inverse * weight[i];
}

void rope(float* x, const float* cos, const float* sin, std::size_t heads, std::size_t head_dim) {
  const std::size_t half = head_dim / 2;
  for (std::size_t head = 0; head < heads; ++head) {
    float* low = x + head * head_dim;
    float* high = low + half;
    for (std::size_t i = 0; i < half; ++i) {
      const float a = low[i];
      const float b = high[i];
      low[i] = a * cos[i] - b * sin[i];
      high[i] = b * cos[i] + a * sin[i];
    }
  }
}

// silu(g) = g / (1 + e^-g), from e = e^-|g| so that nothing overflows: g < 0 takes g e / (1 + e).
KVFERRY_INLINE V silu(V gate) {
  const V e = exp_nonpositive(bit_xor(bit_and(gate, as_vector(0x7fffffffu)), broadcast(-0.0f)));
  const V one = broadcast(1.0f);
  return div(mul(gate, select_by_sign(gate, one, e)), add(one, e));
}

void silu_mul(const float* gate, const float* up, std::size_t n, float* out) {
  std::size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(out + i, mul(silu(load(gate + i)), load(up + i)));
  if (i < n) {
    const std::size_t left = n - i;
    store_n(out + i, left, mul(silu(load_n(gate + i, left)), load_n(up + i, left)));
  }
}

void add_to(const float* x, std::size_t n, float* out) {
  for (std::size_t i = 0; i < n; ++i) out[i] += x[i];
}

// Integer arithmetic and not the bf16 instruction, which takes subnormals for zeros.
void to_bf16(const float* x, std::size_t n, std::uint16_t* out) {
  for (std::size_t i = 0; i < n; ++i) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, x + i, sizeof(bits));
    const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const std::uint32_t quiet = (bits >> 16) | 0x40u;
    out[i] = static_cast<std::uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
  }
}

void from_bf16(const std::uint16_t* x, std::size_t n, float* out) {
  for (std::size_t i = 0; i < n; ++i) {
    const std::uint32_t bits = static_cast<std::uint32_t>(x[i]) << 16;
    __builtin_memcpy(out + i, &bits, sizeof(bits));
  }
}

// a + b in the lower lane of each pair, a - b in the upper one: there the partner is a, and
// a + (-b) has the bits of a - b.
template <int S>
KVFERRY_INLINE V butterfly(V v) {
  if constexpr (S < kLanes) {
    return add(partner<S>(v), bit_xor(v, upper_signs<S>()));
  } else {
    return v;
  }
}

// The butterflies of strides from `stride` up, over the whole row.
KVFERRY_INLINE void wide_butterflies(float* x, std::size_t stride, std::size_t n) {
  for (; stride < n; stride *= 2) {
    for (std::size_t start = 0; start < n; start += 2 * stride) {
      for (std::size_t i = start; i < start + stride; ++i) {
        const float a = x[i];
        const float b = x[i + stride];
        x[i] = a + b;
        x[i + stride] = a - b;
      }
    }
  }
}

void hadamard(float* x, std::size_t heads, std::size_t head_dim) {
  const float scale = static_cast<float>(1.0 / __builtin_sqrt(static_cast<double>(head_dim)));
  for (std::size_t head = 0; head < heads; ++head) {
    float* row = x + head * head_dim;
    std::size_t stride = 1;
    if (head_dim >= kLanes) {
      for (std::size_t i = 0; i < head_dim; i += kLanes) {
        store(row + i, butterfly<8>(butterfly<4>(butterfly<2>(butterfly<1>(load(row + i))))));
      }
      stride = kLanes;
    }
    wide_butterflies(row, stride, head_dim);
    for (std::size_t i = 0; i < head_dim; ++i) row[i] *= scale;
  }
}

}  // namespace
}  // namespace kvferry::kernels
