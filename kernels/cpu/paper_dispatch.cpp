#include "kernels/cpu/paper_common.h"

namespace kvferry::kernels {

// AVX2 runs the scalar functions: the published layout is here to be compared with, and such
// comparisons are made where AVX-512 is.
Isa paper_kernels_isa(Isa isa) { return isa == Isa::kAvx512 ? Isa::kAvx512 : Isa::kScalar; }

const PaperKernels& paper_kernels(Isa isa) {
  return paper_kernels_isa(isa) == Isa::kAvx512 ? kPaperAvx512 : kPaperScalar;
}

const PaperKernels& paper_kernels() { return paper_kernels(active_isa()); }

}  // namespace kvferry::kernels
