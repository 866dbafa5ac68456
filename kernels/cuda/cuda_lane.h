// The lane of lane.h on a GPU, sm_80 and later. Included by .cu files only.
#pragma once

#include <cstdint>

#include "kernels/cuda/lane.h"

namespace kvferry::cuda {

struct CudaLane {
  static KVF_DEVICE int thread() { return static_cast<int>(threadIdx.x); }
  static KVF_DEVICE int lane() { return static_cast<int>(threadIdx.x % kWarp); }
  static KVF_DEVICE int warp() { return static_cast<int>(threadIdx.x / kWarp); }
  static KVF_DEVICE std::uint32_t block_x() { return blockIdx.x; }
  static KVF_DEVICE std::uint32_t block_y() { return blockIdx.y; }
  static KVF_DEVICE std::uint32_t block_z() { return blockIdx.z; }
  static KVF_DEVICE std::byte* shared() {
    extern __shared__ uint4 kvferry_shared[];
    return reinterpret_cast<std::byte*>(kvferry_shared);
  }
  static KVF_DEVICE void sync_warp() { __syncwarp(); }
  static KVF_DEVICE void sync_block() { __syncthreads(); }
  static KVF_DEVICE float shuffle(float v, int lane) { return __shfl_sync(~0u, v, lane); }
  static KVF_DEVICE float shuffle_xor(float v, int mask) { return __shfl_xor_sync(~0u, v, mask); }

  // Past the first-level cache, which a stream that is read once would only empty.
  static KVF_DEVICE void copy_async(std::byte* to, const std::byte* from) {
    const auto address = static_cast<unsigned>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(from) : "memory");
  }
  static KVF_DEVICE void copy_async_or_zero(std::byte* to, const std::byte* from, bool there) {
    const auto address = static_cast<unsigned>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from),
                 "r"(there ? 16 : 0)
                 : "memory");
  }
  static KVF_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
  template <int kLeft>
  static KVF_DEVICE void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
  }

  static KVF_DEVICE Words load16(const void* p) {
    const uint4 v = *static_cast<const uint4*>(p);
    return {{v.x, v.y, v.z, v.w}};
  }

  template <DotKind kKind>
  static KVF_DEVICE void dots(std::int32_t (&acc)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                              std::uint32_t b1) {
    if constexpr (kKind == DotKind::kUnsignedSigned) {
      asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
          "{%8,%9}, {%0,%1,%2,%3};"
          : "+r"(acc[0]), "+r"(acc[1]), "+r"(acc[2]), "+r"(acc[3])
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    } else {
      asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.u8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
          "{%8,%9}, {%0,%1,%2,%3};"
          : "+r"(acc[0]), "+r"(acc[1]), "+r"(acc[2]), "+r"(acc[3])
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
  }

  static KVF_DEVICE void dots_bf16(float (&acc)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                   std::uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
  static KVF_DEVICE void load_transposed(const std::byte* p, std::uint32_t (&a)[4]) {
    const auto address = static_cast<unsigned>(__cvta_generic_to_shared(p));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
                 : "r"(address)
                 : "memory");
  }
  static KVF_DEVICE std::uint32_t transpose(std::uint32_t pair) {
    std::uint32_t out;
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(pair));
    return out;
  }

  static KVF_DEVICE float exp2(float x) {
    float y;
    asm("ex2.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  }
  static KVF_DEVICE float fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
  static KVF_DEVICE std::uint32_t bits(float v) { return __float_as_uint(v); }
  static KVF_DEVICE float as_float(std::uint32_t v) { return __uint_as_float(v); }
  static KVF_DEVICE std::uint32_t select_bytes(std::uint32_t a, std::uint32_t b,
                                               std::uint32_t selector) {
    return __byte_perm(a, b, selector);
  }
};

}  // namespace kvferry::cuda
