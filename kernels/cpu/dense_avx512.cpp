#include "kernels/cpu/dense_attention.h"
#include "kernels/cpu/dense_rows.h"
#include "kernels/cpu/dense_tables.h"
#include "kernels/cpu/dense_waves.h"

namespace kvferry::kernels {

const DenseKernels kDenseAvx512 = {
    .rms_norm = rms_norm,
    .rope = rope,
    .silu_mul = silu_mul,
    .add = add_to,
    .to_bf16 = to_bf16,
    .from_bf16 = from_bf16,
    .hadamard = hadamard,
    .hadamard_bf16 = hadamard_bf16,
    .attend_dense_bf16 = attend_bf16,
    .attend_dense_f32 = attend_f32,
    .score_waves = score_waves,
    .merge_states = merge_states,
    .normalize = normalize,
};

}  // namespace kvferry::kernels
