// How fast the device's memory can be read: the ceiling that attention is measured against.
#pragma once

#include <cstddef>

#include "kernels/cuda/cuda_types.h"

namespace kvferry::cuda {

// Reads `bytes`, a multiple of 16, once; what it makes of them goes to *sink, which nobody needs.
[[nodiscard]] Error read_device(const std::byte* data, std::size_t bytes, unsigned* sink,
                                Stream stream);

}  // namespace kvferry::cuda
