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
  // Reads n bytes, a multiple of 1,024, in order. Returns a sum of them, so that nobody may skip
  // the work.
  std::uint64_t (*read)(const std::byte* bytes, std::size_t n);
};

const CeilingKernels& ceiling_kernels(Isa isa);

}  // namespace kvferry::kernels
