#include "kernels/cpu/paper_attend.h"

namespace kvferry::kernels {

const PaperKernels kPaperAvx2 = {
    paper_round_stochastic, sum_codes, pack_rows, sums_match, scores, attend};

}  // namespace kvferry::kernels
