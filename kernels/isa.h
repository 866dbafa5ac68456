// Which instruction set's kernels run. Chosen once from CPUID, or forced with KVFERRY_ISA
// (scalar, avx2, avx512) or --isa; asking for one that the CPU lacks is an error, never a silent
// fall-back.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace kvferry::kernels {

// kScalar is baseline x86-64 (SSE2, no fused multiply-add). kAvx2 adds AVX2, FMA, F16C and BMI2;
// kAvx512 on top of those F, BW, VL, DQ, VNNI and BF16.
enum class Isa { kScalar, kAvx2, kAvx512 };

std::string_view isa_name(Isa isa);
std::optional<Isa> parse_isa(std::string_view name);
bool cpu_has(Isa isa);
std::vector<Isa> available_isas();  // lowest first; scalar is always there

// What a request for an instruction set means on this CPU: the highest available one for an empty
// request, none where the name is unknown or the CPU lacks it. A program checks KVFERRY_ISA with
// this at its start, so that it can refuse to run in its own words.
std::optional<Isa> resolve_isa(std::string_view wanted);

// The instruction set in use. Resolves KVFERRY_ISA at the first call; force_isa must come before
// any kernel ran. Returns false when the CPU lacks it (and changes nothing). Where KVFERRY_ISA
// cannot be resolved and nothing was forced, active_isa writes one line to stderr and ends the
// process with status 2: running other kernels than those asked for would be worse. Thread-safe.
Isa active_isa();
[[nodiscard]] bool force_isa(Isa isa);

// The CPU's features that kernels here or in libraries below could use, as CPUID and the operating
// system report them, separated by spaces: among avx2, fma, f16c, bmi2, avx512f, avx512bw,
// avx512vl, avx512dq, avx512_vnni, avx512_bf16, avx_vnni, amx_tile, amx_int8, amx_bf16.
// "none" on a CPU that has none of them. For `kvferry doctor`.
std::string cpu_features();

}  // namespace kvferry::kernels
