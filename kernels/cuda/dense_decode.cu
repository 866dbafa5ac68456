#include "kernels/cuda/cuda_lane.h"
#include "kernels/cuda/dense_decode.h"

namespace kvferry::cuda {
namespace {

template <int kDim>
__global__ void __launch_bounds__(kDecodeThreads)
    dense_kernel(DensePages kv, DecodeQueries queries) {
  dense_decode<kDim>(CudaLane(), kv, queries);
}
template <int kDim>
__global__ void __launch_bounds__(kDim) merge_kernel(DensePages kv, DecodeQueries queries) {
  merge_dense<kDim>(CudaLane(), kv, queries);
}

template <int kDim>
cudaError_t launch(const DensePages& kv, const DecodeQueries& queries, Stream stream) {
  const std::size_t shared = dense_shared_bytes<kDim>();
  const cudaError_t allowed =
      cudaFuncSetAttribute(reinterpret_cast<const void*>(dense_kernel<kDim>),
                           cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
  if (allowed != cudaSuccess) return allowed;
  const dim3 grid(static_cast<unsigned>(max_runs(kv.max_tiles)),
                  static_cast<unsigned>(kv.kv_heads * row_blocks(queries.group)),
                  static_cast<unsigned>(queries.sequences));
  dense_kernel<kDim><<<grid, kDecodeThreads, shared, stream>>>(kv, queries);
  if (const cudaError_t started = cudaGetLastError(); started != cudaSuccess) return started;
  const auto rows = static_cast<unsigned>(queries.sequences * kv.kv_heads * queries.group);
  merge_kernel<kDim><<<rows, kDim, 0, stream>>>(kv, queries);
  return cudaGetLastError();
}

}  // namespace

std::size_t dense_partial_bytes(const DensePages& kv, const DecodeQueries& queries) {
  return partial_bytes(kv.head_dim, kv.kv_heads, max_runs(kv.max_tiles), queries);
}

Error dense_attend(const DensePages& kv, const DecodeQueries& queries, Stream stream) {
  if (queries.group < 1 || queries.group > 64) return cudaErrorInvalidValue;
  if (queries.sequences == 0) return cudaSuccess;
  switch (kv.head_dim) {
    case 64:
      return launch<64>(kv, queries, stream);
    case 128:
      return launch<128>(kv, queries, stream);
    case 256:
      return launch<256>(kv, queries, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace kvferry::cuda
