#include "kernels/cpu/paper_common.h"

namespace kvferry::kernels {

const PaperKernels& paper_kernels(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return kPaperAvx512;
    case Isa::kAvx2:
      return kPaperAvx2;
    case Isa::kScalar:
      break;
  }
  return kPaperScalar;
}

const PaperKernels& paper_kernels() { return paper_kernels(active_isa()); }

}  // namespace kvferry::kernels
