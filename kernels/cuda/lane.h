// What the kernels of this folder ask of the machine. A kernel's body is a template over `Lane`,
// one thread of a block, so that the same source runs on a GPU (cuda_lane.h) and, for tests where
// there is none, on the CPU with every thread a coroutine (tests/kernels/cuda/emulated_lane.h). A
// Lane has
//
//   thread(), lane(), warp()     thread of the block, lane of its warp (32), warp of the block
//   block_x(), _y(), _z()        block of the grid
//   shared()                     the block's dynamic shared memory, 16-byte aligned
//   sync_warp(), sync_block()    barriers that also order shared memory; all lanes take part
//   shuffle(v, lane)             v of another lane of the warp (f32); all lanes take part
//   shuffle_xor(v, mask)         v of lane ^ mask
//   copy_async(to, from)         16 bytes from global to shared memory, both 16-byte aligned; there
//   commit_copies()              after wait_copies<n>(), which leaves the n groups that were
//   wait_copies<n>()             committed last under way, and sync_warp()
//   copy_async_or_zero(to, from, there)   likewise, or zeros
//   load16(p)                    16 bytes, aligned
//   load_transposed(p, a)        four 8 x 8 matrices of 16-bit values from shared memory,
//   transposed:
//                                lanes 8 i to 8 i + 7 point to the rows of matrix i; lane 4 g + t
//                                gets values (2 t, g) and (2 t + 1, g) of it in a[i]
//   transpose(pair)              one such matrix that lies in registers: lane 4 g + t gives values
//                                (g, 2 t) and (g, 2 t + 1) and gets (2 t, g) and (2 t + 1, g)
//   dots(kind, acc, a, b)        the tensor cores' product of 16 x 32 by 32 x 8 bytes ("dots"
//   below) exp2(x)                      2^x within 2 units of the last place, 0 for -infinity
//   fma(a, b, c), bits(f), as_float(u), select_bytes(a, b, selector)
//
// dots: acc[16][8] += a[16][32] b[32][8] in 32-bit integers, exact. a is unsigned, b signed or
// unsigned bytes. Lane 4 g + t (g in 0..7, t in 0..3) holds, as PTX's mma.m16n8k32 has it,
//   a[0], a[1]  rows g and g + 8, bytes 4 t .. 4 t + 3     a[2], a[3]  likewise, 16 bytes on
//   b[0]        bytes 4 t .. 4 t + 3 of column g           b[1]        likewise, 16 bytes on
//   acc[0..3]   (g, 2 t), (g, 2 t + 1), (g + 8, 2 t), (g + 8, 2 t + 1)
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__CUDACC__)
#define KVF_DEVICE __device__ __forceinline__
#define KVF_HOST_DEVICE __host__ __device__ __forceinline__
#define KVF_UNROLL _Pragma("unroll")
#else
#define KVF_DEVICE inline
#define KVF_HOST_DEVICE inline
#define KVF_UNROLL
#endif

namespace kvferry::cuda {

constexpr int kWarp = 32;

enum class DotKind : std::uint8_t { kUnsignedSigned, kUnsignedUnsigned };

// Four words that are loaded at once.
struct alignas(16) Words {
  std::uint32_t w[4];
};

}  // namespace kvferry::cuda
