// NCCL itself behind NcclApi, on one GPU. Payloads lie in host memory: each operation has a buffer
// of pinned host memory and one of device memory, through which its bytes go on the communicator's
// stream, copy and transfer one after the other, operations side by side.
//
// Communicators are non-blocking: whether NCCL has taken an operation over is asked for before the
// next one of the same communicator. Aborts run on threads of their own, because NCCL may hang in
// them.
//
// State: compiled and linked where CUDA and NCCL are found; docs/gpu-results.md says what has run.
//
// Thread contract: one thread.
#pragma once

#include <cstddef>
#include <memory>

#include "base/status.h"
#include "transport/nccl_api.h"

namespace kvferry::transport {

struct NcclLibraryConfig {
  int device = 0;
  std::size_t max_bytes = std::size_t{4} << 20;  // of an operation: a DATA payload
  std::size_t max_operations = 64;               // under way at one time; more are refused
};

// kUnavailable where there is no such GPU, with CUDA's reason.
Result<std::unique_ptr<NcclApi>> make_nccl_library(const NcclLibraryConfig& config);

}  // namespace kvferry::transport
