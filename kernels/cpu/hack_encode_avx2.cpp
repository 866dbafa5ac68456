#include "kernels/cpu/hack_balance.h"
#include "kernels/cpu/hack_encode_rows.h"

namespace kvferry::kernels {

const HackEncodeKernels kHackEncodeAvx2 = {first_not_finite, quantize_block, balance, pack_block};

}  // namespace kvferry::kernels
