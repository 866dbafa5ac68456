#include "kernels/cpu/byte_rows.h"
#include "kernels/cpu/byte_tables.h"

namespace kvferry::kernels {

const ByteKernels kByteScalar = kTable;

}  // namespace kvferry::kernels
