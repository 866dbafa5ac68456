// Row kernels: norm, rope, activation, conversions, Hadamard. Included only by dense_<isa>.cpp.
// Those written as plain loops use no sum and no fused operation, so the compiler may vectorise
// them as it likes: every element is the same few IEEE operations.
#pragma once

#include "kernels/cpu/dense_vec.h"
#include "kernels/dense_kernels.h"
#if defined(__AVX2__)
#include "kernels/cpu/words_vec.h"
#endif

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
KVFERRY_INLINE std::uint16_t bf16_of(float value) {
  std::uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const std::uint32_t quiet = (bits >> 16) | 0x40u;
  return static_cast<std::uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

#if defined(__AVX2__)
// 2 kLanes values, one of them NaN.
void put_with_nan(std::uint16_t* out, V a, V b) {
  alignas(64) float values[2 * kLanes];
  store(values, a);
  store(values + kLanes, b);
  for (int i = 0; i < 2 * kLanes; ++i) out[i] = bf16_of(values[i]);
}
KVFERRY_INLINE void put_bf16(std::uint16_t* out, V a, V b) {
  if (__builtin_expect(any_nan(a, b), false)) return put_with_nan(out, a, b);
  store_words(out, upper_halves(rounded(a), rounded(b)));
}
#endif

void to_bf16(const float* x, std::size_t n, std::uint16_t* out) {
  std::size_t i = 0;
#if defined(__AVX2__)
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) put_bf16(out + i, load(x + i), load(x + i + kLanes));
#endif
  for (; i < n; ++i) out[i] = bf16_of(x[i]);
}

void from_bf16(const std::uint16_t* x, std::size_t n, float* out) {
  for (std::size_t i = 0; i < n; ++i) {
    const std::uint32_t bits = static_cast<std::uint32_t>(x[i]) << 16;
    __builtin_memcpy(out + i, &bits, sizeof(bits));
  }
}

// a + b in the lower lane of each pair, a - b in the upper one: there the partner is a. The product
// with +-1 is exact, so this is one rounding, that of the addition.
template <int S>
KVFERRY_INLINE V butterfly(V v) {
  if constexpr (S < kLanes) {
    return fma(v, bit_xor(broadcast(1.0f), upper_signs<S>()), partner<S>(v));
  } else {
    return v;
  }
}

// The butterflies between registers at distance S of N, and those of wider strides.
template <int S, int N>
KVFERRY_INLINE void butterflies_between(V (&r)[N]) {
  if constexpr (S < N) {
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) {
      if ((i & S) != 0) continue;
      const V a = r[i];
      const V b = r[i + S];
      r[i] = add(a, b);
      r[i + S] = sub(a, b);
    }
    butterflies_between<2 * S, N>(r);
  }
}

// The butterflies within each of N registers, of x.
template <int N>
KVFERRY_INLINE void butterflies_within(const float* x, V (&r)[N]) {
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) {
    r[i] = butterfly<8>(butterfly<4>(butterfly<2>(butterfly<1>(load(x + i * kLanes)))));
  }
}

// Whole butterflies of N registers, which then are multiplied by the scale.
template <int N>
KVFERRY_INLINE void hadamard_registers(float* x, V scale) {
  V r[N];
  butterflies_within<N>(x, r);
  butterflies_between<1, N>(r);
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) store(x + i * kLanes, mul(r[i], scale));
}

// The butterflies of strides from `stride` up, over the whole row, and the multiplication by the
// scale in the last of them: before it, that is by 1.
KVFERRY_INLINE void wide_butterflies(float* x, std::size_t stride, std::size_t n, float scale) {
  for (; stride < n; stride *= 2) {
    const float factor = 2 * stride == n ? scale : 1.0f;
    for (std::size_t start = 0; start < n; start += 2 * stride) {
      float* __restrict low = x + start;
      float* __restrict high = low + stride;
      for (std::size_t i = 0; i < stride; ++i) {
        const float a = low[i];
        const float b = high[i];
        low[i] = (a + b) * factor;
        high[i] = (a - b) * factor;
      }
    }
  }
}

// Rows that fit in the registers are read and written once; longer ones are cut into parts. Row by
// row in passes over memory, 128 values took 62 ns instead of 20 (Zen 4, AVX-512).
KVFERRY_INLINE float hadamard_scale(std::size_t head_dim) {
  return static_cast<float>(1.0 / __builtin_sqrt(static_cast<double>(head_dim)));
}
void hadamard(float* x, std::size_t heads, std::size_t head_dim) {
  constexpr std::size_t kPart = 8;  // registers
  const float scale = hadamard_scale(head_dim);
  for (std::size_t head = 0; head < heads; ++head) {
    float* row = x + head * head_dim;
    if (head_dim == 4 * kLanes) {
      hadamard_registers<4>(row, broadcast(scale));
    } else if (head_dim == kPart * kLanes) {
      hadamard_registers<kPart>(row, broadcast(scale));
    } else if (kLanes == 16 && head_dim == 16 * kLanes) {
      hadamard_registers<16>(row, broadcast(scale));
    } else if (head_dim < 4 * kLanes) {
      wide_butterflies(row, 1, head_dim, scale);
    } else {
      for (std::size_t i = 0; i < head_dim; i += kPart * kLanes) {
        hadamard_registers<kPart>(row + i, broadcast(1.0f));
      }
      wide_butterflies(row, kPart * kLanes, head_dim, scale);
    }
  }
}

#if defined(__AVX512F__)
// Rows of N registers are rounded before they are stored, while the next row's butterflies within
// registers fill the gaps: 22 ns for 128 values, where 31 passed in two passes.
template <int N>
void hadamard_rows_bf16(const float* x, std::size_t heads, std::uint16_t* out, std::size_t stride) {
  constexpr std::size_t kRow = N * kLanes;
  const V scale = broadcast(hadamard_scale(kRow));
  V next[N];
  butterflies_within<N>(x, next);
  for (std::size_t head = 0; head < heads; ++head, out += stride) {
    V r[N];
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) r[i] = next[i];
    butterflies_within<N>(x + (head + 1 < heads ? head + 1 : head) * kRow, next);
    butterflies_between<1, N>(r);
#pragma GCC unroll 8
    for (int i = 0; i < N; i += 2) {
      put_bf16(out + i * kLanes, mul(r[i], scale), mul(r[i + 1], scale));
    }
  }
}
#endif

void hadamard_bf16(const float* x, std::size_t heads, std::size_t head_dim, std::uint16_t* out,
                   std::size_t stride) {
  if (heads == 0) return;
#if defined(__AVX512F__)
  if (head_dim == 4 * kLanes) return hadamard_rows_bf16<4>(x, heads, out, stride);
  if (head_dim == 8 * kLanes) return hadamard_rows_bf16<8>(x, heads, out, stride);
#endif
  alignas(64) float row[kMaxHeadDim];
  for (std::size_t head = 0; head < heads; ++head) {
    __builtin_memcpy(row, x + head * head_dim, head_dim * sizeof(float));
    hadamard(row, 1, head_dim);
    to_bf16(row, head_dim, out + head * stride);
  }
}

}  // namespace
}  // namespace kvferry::kernels
