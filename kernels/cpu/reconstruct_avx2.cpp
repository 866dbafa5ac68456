#include "kernels/cpu/reconstruct.h"

namespace kvferry::kernels {

const ReconstructKernels kReconstructAvx2 = {reconstruct_hack, reconstruct_paper, reconstruct_hack,
                                             reconstruct_paper};

}  // namespace kvferry::kernels
