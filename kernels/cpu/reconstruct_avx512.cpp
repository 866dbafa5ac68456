#include "kernels/cpu/reconstruct.h"

namespace kvferry::kernels {

const ReconstructKernels kReconstructAvx512 = {reconstruct_hack, reconstruct_paper,
                                               reconstruct_hack, reconstruct_paper};

}  // namespace kvferry::kernels
