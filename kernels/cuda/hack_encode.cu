#include "kernels/cuda/cuda_lane.h"
#include "kernels/cuda/hack_encode.h"

namespace kvferry::cuda {
namespace {

template <int kDim>
__global__ void __launch_bounds__(kDim) encode_kernel(EncodeTiles tiles) {
  hack_encode<kDim>(CudaLane(), tiles);
}

template <int kDim>
cudaError_t launch(const EncodeTiles& tiles, Stream stream) {
  constexpr int kShared = EncodeShared<kDim>::kBytes;
  const cudaError_t allowed =
      cudaFuncSetAttribute(reinterpret_cast<const void*>(encode_kernel<kDim>),
                           cudaFuncAttributeMaxDynamicSharedMemorySize, kShared);
  if (allowed != cudaSuccess) return allowed;
  const dim3 grid(static_cast<unsigned>(tiles.tiles), static_cast<unsigned>(tiles.kv_heads), 2);
  encode_kernel<kDim><<<grid, kDim, kShared, stream>>>(tiles);
  return cudaGetLastError();
}

bool known_bits(int bits) { return bits == 2 || bits == 4 || bits == 8; }

}  // namespace

Error encode_tiles(const EncodeTiles& tiles, Stream stream) {
  if (!known_bits(tiles.k_bits) || !known_bits(tiles.v_bits) || tiles.head_bytes % 16 != 0) {
    return cudaErrorInvalidValue;
  }
  if (tiles.tiles == 0) return cudaSuccess;
  switch (tiles.head_dim) {
    case 64:
      return launch<64>(tiles, stream);
    case 128:
      return launch<128>(tiles, stream);
    case 256:
      return launch<256>(tiles, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace kvferry::cuda
