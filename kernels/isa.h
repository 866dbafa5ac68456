// Which instruction set's kernels run. Chosen once from CPUID, or forced with KVFERRY_ISA
// (scalar, avx2, avx512) or --isa; asking for one that the CPU lacks is an error, never a silent
// fall-back.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

namespace kvferry::kernels {

enum class Isa { kScalar, kAvx2, kAvx512 };  // kAvx512: F, BW, VL, DQ, VNNI and BF16

std::string_view isa_name(Isa isa);
std::optional<Isa> parse_isa(std::string_view name);
bool cpu_has(Isa isa);
std::vector<Isa> available_isas();  // lowest first; scalar is always there

// The instruction set in use. Resolves KVFERRY_ISA at the first call; force_isa must come before
// any kernel ran. Returns false when the CPU lacks it.
Isa active_isa();
[[nodiscard]] bool force_isa(Isa isa);

}  // namespace kvferry::kernels
