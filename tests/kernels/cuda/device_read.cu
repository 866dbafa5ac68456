#include <cuda_runtime.h>

#include "tests/kernels/cuda/device_read.h"

namespace kvferry::cuda {
namespace {

// Four loads of 16 bytes a thread under way.
__global__ void __launch_bounds__(512)
    read_kernel(const uint4* data, std::size_t count, unsigned* sink) {
  const std::size_t threads = std::size_t{gridDim.x} * blockDim.x;
  unsigned mixed = 0;
  std::size_t i = std::size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  for (; i + 3 * threads < count; i += 4 * threads) {
    uint4 v[4];
#pragma unroll
    for (int n = 0; n < 4; ++n) v[n] = __ldcs(data + i + static_cast<std::size_t>(n) * threads);
#pragma unroll
    for (int n = 0; n < 4; ++n) mixed ^= v[n].x ^ v[n].y ^ v[n].z ^ v[n].w;
  }
  for (; i < count; i += threads) mixed ^= data[i].x;
  if (mixed == 0x12345678u) *sink = mixed;
}

}  // namespace

Error read_device(const std::byte* data, std::size_t bytes, unsigned* sink, Stream stream) {
  int device = 0, processors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  }
  if (error != cudaSuccess) return error;
  read_kernel<<<static_cast<unsigned>(4 * processors), 512, 0, stream>>>(
      reinterpret_cast<const uint4*>(data), bytes / sizeof(uint4), sink);
  return cudaGetLastError();
}

}  // namespace kvferry::cuda
