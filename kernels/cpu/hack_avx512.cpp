#include "kernels/cpu/hack_attend_avx512.h"

namespace kvferry::kernels {

const HackKernels kHackAvx512 = {attend};

}  // namespace kvferry::kernels
