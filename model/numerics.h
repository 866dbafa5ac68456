// The numerics class of a loaded model: a hash of output bits, so that two workers know whether
// they compute the same bits. docs/ARCHITECTURE.md, "one answer".
// Thread contract: pure function.
#pragma once

#include <cstdint>

#include "base/status.h"
#include "model/gemm_kernel.h"

namespace kvferry::model {

// Over the GEMM probes of the model's own shapes, and over norm, rope, activation, bf16 rounding,
// Hadamard, dense attention and attention on codes of fixed seeded input.
Result<std::uint64_t> probe_numerics(const GemmKernels& kernels, Compute compute);

}  // namespace kvferry::model
