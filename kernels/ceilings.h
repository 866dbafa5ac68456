// What one core can do at most with an instruction set, measured by loops that do nothing else. For
// benchmarks, which report their share of it.
//
// Thread contract: pure functions; several threads may measure at once to find their common limit.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/isa.h"

namespace kvferry::kernels {

struct CeilingKernels {
  // Integer dots of unsigned with signed bytes on registers, in the instructions that attention on
  // codes uses. Returns the operations done in `rounds` rounds; a multiply-add counts as two.
  double (*dots)(std::uint64_t rounds);
  // The same of f32, fused where the instruction set has that, in those that attention on dense
  // tiles uses. (Products of bf16 are twice as fast on Zen 4, 236 GFLOP/s instead of 118, but q and
  // p would be split in two parts of 8 bits each, which costs as much again.)
  double (*float_dots)(std::uint64_t rounds);
  // Reads n bytes, a multiple of 1,024, in order. Returns a sum of them, so that nobody may skip
  // the work.
  std::uint64_t (*read)(const std::byte* bytes, std::size_t n);
};

const CeilingKernels& ceiling_kernels(Isa isa);

}  // namespace kvferry::kernels
