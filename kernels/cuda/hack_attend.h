// Attention on hack's codes on a GPU: the functions that launch it.
//
// Thread contract: any thread, with its device current. Work is queued on the stream; memory is the
// caller's until the stream has passed it. An error of CUDA comes back as it is;
// cudaErrorInvalidValue also stands for a shape that is not among those named in hack_decode.h.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/cuda/hack_decode.h"

namespace kvferry::cuda {

// One token of each sequence against its closed tiles and its open tile.
[[nodiscard]] cudaError_t hack_decode_attend(const PagedKv& kv, const DecodeQueries& queries,
                                             cudaStream_t stream);

}  // namespace kvferry::cuda
