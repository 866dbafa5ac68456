// A tile with its codes one a byte: what the kernels that read single codes work on.
#pragma once

#include <cstdint>

#include "kernels/hack_kernels.h"

namespace kvferry::kernels {

inline constexpr std::uint32_t kHackMaxDim = 256;

struct HackCodes {
  std::uint8_t k[kHackMaxDim * kHackBlock];  // [channel][token]
  std::uint8_t v[kHackBlock * kHackMaxDim];  // [token][channel], stride head_dim
};

void hack_unpack(const HackPlanes& planes, HackCodes& out);

// Element `index` of a plane of bf16.
float hack_load_bf16(const std::byte* plane, std::size_t index);

}  // namespace kvferry::kernels
