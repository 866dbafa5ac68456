// The lane of lane.h on the CPU, for tests of the kernels' logic where there is no GPU: every
// thread of a block is a coroutine, and what lanes do together meets at barriers. It is stricter
// than a GPU where that finds mistakes: copies arrive only when they are waited for, shared memory
// begins as NaN, and a block whose threads wait for different things ends with an error.
//
// Thread contract: one launch at a time.
#pragma once

#include <cmath>
#include <cstring>
#include <functional>

#include "kernels/cuda/lane.h"

namespace kvferry::cuda {

struct Grid {
  std::uint32_t x = 1, y = 1, z = 1;
};

class EmulatedLane {
 public:
  int thread() const { return thread_; }
  int lane() const { return thread_ % kWarp; }
  int warp() const { return thread_ / kWarp; }
  std::uint32_t block_x() const { return block_.x; }
  std::uint32_t block_y() const { return block_.y; }
  std::uint32_t block_z() const { return block_.z; }
  std::byte* shared() const;
  void sync_warp() const;
  void sync_block() const;
  float shuffle(float v, int lane) const;
  float shuffle_xor(float v, int mask) const { return shuffle(v, lane() ^ mask); }

  void copy_async(std::byte* to, const std::byte* from) const;
  void copy_async_or_zero(std::byte* to, const std::byte* from, bool there) const;
  void commit_copies() const;
  template <int kLeft>
  void wait_copies() const {
    wait_copies(kLeft);
  }

  Words load16(const void* p) const;
  template <DotKind kKind>
  void dots(std::int32_t (&acc)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
            std::uint32_t b1) const {
    dots(kKind, acc, a, b0, b1);
  }

  void dots_bf16(float (&acc)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                 std::uint32_t b1) const;
  void load_transposed(const std::byte* p, std::uint32_t (&a)[4]) const;
  std::uint32_t transpose(std::uint32_t pair) const;

  static float exp2(float x) { return std::exp2(x); }
  static float fma(float a, float b, float c) { return std::fma(a, b, c); }
  static std::uint32_t bits(float v) {
    std::uint32_t u;
    std::memcpy(&u, &v, sizeof(u));
    return u;
  }
  static float as_float(std::uint32_t u) {
    float v;
    std::memcpy(&v, &u, sizeof(v));
    return v;
  }
  // Bytes 0 to 3 of a, then of b, are numbered 0 to 7; nibble i of the selector says which is byte
  // i.
  static std::uint32_t select_bytes(std::uint32_t a, std::uint32_t b, std::uint32_t selector) {
    const std::uint64_t both = (std::uint64_t{b} << 32) | a;
    std::uint32_t out = 0;
    for (int i = 0; i < 4; ++i) {
      out |= static_cast<std::uint32_t>(both >> (8 * (selector >> (4 * i) & 7u)) & 0xffu)
             << (8 * i);
    }
    return out;
  }

 private:
  friend class Emulator;
  EmulatedLane(int thread, Grid block) : thread_(thread), block_(block) {}
  void wait_copies(int left) const;
  void dots(DotKind kind, std::int32_t (&acc)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
            std::uint32_t b1) const;

  int thread_;
  Grid block_;
};

// Runs body(lane) for every thread of every block, blocks one after the other.
void emulate(Grid grid, int threads, std::size_t shared_bytes,
             const std::function<void(const EmulatedLane&)>& body);

}  // namespace kvferry::cuda
