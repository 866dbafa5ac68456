#include "kernels/cpu/hack_attend_avx512.h"
#include "kernels/cpu/hack_encode_avx512.h"

namespace kvferry::kernels {

const HackKernels kHackAvx512 = {first_not_finite, widen_block, transpose_block,
                                 quantize_block,   pack_block,  attend};

}  // namespace kvferry::kernels
