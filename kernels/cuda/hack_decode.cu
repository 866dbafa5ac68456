#include "kernels/cuda/cuda_lane.h"
#include "kernels/cuda/hack_decode.h"

namespace kvferry::cuda {
namespace {

// 3 blocks of 4 warps share an SM's memory with 5 KiB a tile; 168 registers a thread leave room for
// them.
template <int kDim>
__global__ void __launch_bounds__(kDecodeThreads, kDim == 256 ? 2 : 3)
    decode_kernel(PagedKv kv, DecodeQueries queries) {
  hack_decode<kDim>(CudaLane(), kv, queries);
}
template <int kDim>
__global__ void __launch_bounds__(kDim) merge_kernel(PagedKv kv, DecodeQueries queries) {
  merge_decode<kDim>(CudaLane(), kv, queries);
}

template <int kDim>
cudaError_t launch(const PagedKv& kv, const DecodeQueries& queries, Stream stream) {
  const auto shared = static_cast<int>(decode_shared_bytes<kDim>(kv));
  const cudaError_t allowed =
      cudaFuncSetAttribute(reinterpret_cast<const void*>(decode_kernel<kDim>),
                           cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
  if (allowed != cudaSuccess) return allowed;
  const dim3 grid(static_cast<unsigned>(decode_parts(kv.max_tiles)),
                  static_cast<unsigned>(kv.kv_heads * row_blocks(queries.group)),
                  static_cast<unsigned>(queries.sequences));
  decode_kernel<kDim>
      <<<grid, kDecodeThreads, static_cast<std::size_t>(shared), stream>>>(kv, queries);
  if (const cudaError_t started = cudaGetLastError(); started != cudaSuccess) return started;
  const auto rows = static_cast<unsigned>(queries.sequences * kv.kv_heads * queries.group);
  merge_kernel<kDim><<<rows, kDim, 0, stream>>>(kv, queries);
  return cudaGetLastError();
}

bool known_bits(int bits) { return bits == 2 || bits == 4 || bits == 8; }

}  // namespace

std::size_t decode_partial_bytes(const PagedKv& kv, const DecodeQueries& queries) {
  return partial_bytes(kv.head_dim, kv.kv_heads, decode_parts(kv.max_tiles), queries);
}

Error decode_attend(const PagedKv& kv, const DecodeQueries& queries, Stream stream) {
  for (const int bits : {kv.k_bits, kv.v_bits, kv.first_k_bits, kv.first_v_bits}) {
    if (!known_bits(bits)) return cudaErrorInvalidValue;
  }
  if (kv.head_bytes % 16 != 0 || kv.first_head_bytes % 16 != 0 || queries.group < 1 ||
      queries.group > 64) {
    return cudaErrorInvalidValue;
  }
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
