#include "kernels/isa.h"

#include <cpuid.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>

namespace kvferry::kernels {
namespace {

constexpr std::array kIsas = {Isa::kScalar, Isa::kAvx2, Isa::kAvx512};
constexpr int kUnresolved = -1;

// Relaxed order is enough: the value guards no other data.
std::atomic<int> active{kUnresolved};

// What clang 14 does not know by name. The bit says what the CPU has; whether the operating system
// keeps the registers is asked by name, for avx2.
struct CpuidBits {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  CpuidBits(unsigned leaf, unsigned subleaf) {
    __get_cpuid_count(leaf, subleaf, &eax, &ebx, &ecx, &edx);
  }
};
bool has_f16c() { return (CpuidBits(1, 0).ecx >> 29 & 1) != 0; }
bool has_avx_vnni() { return (CpuidBits(7, 1).eax >> 4 & 1) != 0; }
bool has_amx(unsigned bit) { return (CpuidBits(7, 0).edx >> bit & 1) != 0; }

bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c() &&
         __builtin_cpu_supports("bmi2");
}

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16");
}

}  // namespace

std::string_view isa_name(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return "scalar";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
  }
  return "unknown";
}

std::optional<Isa> parse_isa(std::string_view name) {
  for (Isa isa : kIsas) {
    if (name == isa_name(isa)) return isa;
  }
  return std::nullopt;
}

bool cpu_has(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return true;
    case Isa::kAvx2:
      return has_avx2();
    case Isa::kAvx512:
      return has_avx512();
  }
  return false;
}

std::vector<Isa> available_isas() {
  std::vector<Isa> isas;
  for (Isa isa : kIsas) {
    if (cpu_has(isa)) isas.push_back(isa);
  }
  return isas;
}

std::optional<Isa> resolve_isa(std::string_view wanted) {
  if (wanted.empty()) return available_isas().back();
  std::optional<Isa> isa = parse_isa(wanted);
  return isa && cpu_has(*isa) ? isa : std::nullopt;
}

Isa active_isa() {
  int current = active.load(std::memory_order_relaxed);
  if (current != kUnresolved) return static_cast<Isa>(current);
  const char* wanted = std::getenv("KVFERRY_ISA");
  std::optional<Isa> isa = resolve_isa(wanted == nullptr ? "" : wanted);
  if (!isa) {
    std::fprintf(stderr, "KVFERRY_ISA=%s is not an instruction set of this CPU (it has: %s)\n",
                 wanted, cpu_features().c_str());
    std::_Exit(2);
  }
  // A force_isa in between wins.
  active.compare_exchange_strong(current, static_cast<int>(*isa), std::memory_order_relaxed);
  return static_cast<Isa>(active.load(std::memory_order_relaxed));
}

bool force_isa(Isa isa) {
  if (!cpu_has(isa)) return false;
  active.store(static_cast<int>(isa), std::memory_order_relaxed);
  return true;
}

std::string cpu_features() {
  std::string features;
  auto list = [&features](const char* name, bool has) {
    if (!has) return;
    if (!features.empty()) features += ' ';
    features += name;
  };
  list("avx2", __builtin_cpu_supports("avx2"));
  list("fma", __builtin_cpu_supports("fma"));
  list("f16c", has_f16c());
  list("bmi2", __builtin_cpu_supports("bmi2"));
  list("avx512f", __builtin_cpu_supports("avx512f"));
  list("avx512bw", __builtin_cpu_supports("avx512bw"));
  list("avx512vl", __builtin_cpu_supports("avx512vl"));
  list("avx512dq", __builtin_cpu_supports("avx512dq"));
  list("avx512_vnni", __builtin_cpu_supports("avx512vnni"));
  list("avx512_bf16", __builtin_cpu_supports("avx512bf16"));
  list("avx_vnni", has_avx_vnni());
  list("amx_tile", has_amx(24));
  list("amx_int8", has_amx(25));
  list("amx_bf16", has_amx(22));
  return features.empty() ? "none" : features;
}

}  // namespace kvferry::kernels
