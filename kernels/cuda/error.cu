#include <cuda_runtime_api.h>

#include "kernels/cuda/hack_cuda.h"

namespace kvferry::cuda {

const char* error_text(Error error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

}  // namespace kvferry::cuda
