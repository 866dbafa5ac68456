#include "kernels/cpu/byte_rows.h"
#include "kernels/cpu/byte_tables.h"

namespace kvferry::kernels {

const ByteKernels kByteAvx512 = {
    .to_finite_bf16 = to_finite_bf16,
    .max_magnitude = max_magnitude,
    .to_fp8 = to_fp8,
    .from_fp8 = from_fp8,
    .to_int8 = to_int8,
    .from_int8 = from_int8,
    .pack_codes = pack_codes,
    .unpack_codes = unpack_codes,
    .from_codes = from_codes,
};

}  // namespace kvferry::kernels
