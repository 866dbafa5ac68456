// What the functions of this folder have in common: streams, errors, and the rows of a batch that
// attend. Pointers are to device memory, 16-byte aligned, and the caller's until the stream has
// passed the work.
#pragma once

#include <cstddef>

struct CUstream_st;

namespace kvferry::cuda {

using Stream = CUstream_st*;  // cudaStream_t

// 0, or the cudaError_t of the call that failed; cudaErrorInvalidValue also stands for arguments
// outside what is said below.
using Error = int;
const char* error_text(Error error);

// The query rows of a batch, one token of each sequence.
struct DecodeQueries {
  int sequences = 0;
  int group = 0;             // query heads of a KV head, 1 to 64
  const float* q = nullptr;  // [sequences][kv_heads * group][head_dim], times 1 / sqrt(head_dim)
  float* out = nullptr;      // likewise, normalised; a sequence without tokens gets zeros
  float* partial = nullptr;  // scratch memory, as much as the function says
};

}  // namespace kvferry::cuda
