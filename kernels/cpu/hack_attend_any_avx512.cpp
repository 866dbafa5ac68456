#include "kernels/cpu/hack_attend.h"

namespace kvferry::kernels {

const HackKernels kHackAnyAvx512 = {attend_any};

}  // namespace kvferry::kernels
