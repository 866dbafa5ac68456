#include "kernels/cpu/hack_attend.h"

namespace kvferry::kernels {

const HackKernels kHackAvx2 = {attend_any};

}  // namespace kvferry::kernels
