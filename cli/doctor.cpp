// `kvferry doctor`: what this machine has, what kvferry will use of it, and what to do about the
// rest.

#include <dlfcn.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <limits>
#include <thread>

#include "base/memory_limits.h"
#include "cli/commands.h"
#include "cli/engine_setup.h"
#include "kernels/isa.h"
#include "transport/ucx_transport.h"

namespace kvferry::cli {
namespace {

void line(const char* what, const std::string& value) { fmt::print("{:<18} {}\n", what, value); }
void advice(const std::string& text) { fmt::print("{:<18} -> {}\n", "", text); }

std::string mib(double bytes) { return fmt::format("{:.0f} MiB", bytes / (1 << 20)); }

std::string cpu_model() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string text; std::getline(file, text);) {
    if (text.starts_with("model name")) return text.substr(text.find(':') + 2);
  }
  return "unknown";
}

void print_cpu() {
  line("cpu", fmt::format("{}, {} cores", cpu_model(), std::thread::hardware_concurrency()));
  line("cpu features", kernels::cpu_features());
  const kernels::Isa isa = kernels::active_isa();
  line("kernels",
       fmt::format("{}{}", kernels::isa_name(isa), std::getenv("KVFERRY_ISA") ? " (forced)" : ""));
  if (!kernels::cpu_has(kernels::Isa::kAvx512)) {
    advice("without AVX-512 (VNNI, BF16) attention on codes is slower, and compute is f32");
  }
}

Status print_numerics(const std::string& model) {
  if (model.empty()) {
    line("numerics class", "depends on the model: kvferry doctor --model DIR");
    return ok_status();
  }
  EngineOptions options;
  options.model = model;
  KVF_ASSIGN_OR_RETURN(const LoadedEngine engine, load_engine(options));
  line("model", fmt::format("{}, {}, context {}", engine.model->config().name,
                            engine.model->compute() == model::Compute::kBf16 ? "bf16" : "f32",
                            engine.model->config().context));
  line("numerics class", fmt::format("{:016x}", engine.model->numerics_class()));
  return ok_status();
}

bool print_ucx(const DoctorOptions& options) {
  line("ucx", transport::ucx_version());
  std::string transports;
  for (const std::string& name : transport::ucx_usable_transports()) transports += name + " ";
  line("ucx transports", transports.empty() ? "none" : transports);
  const Status test = transport::ucx_self_test(options.ucx_tls);
  line("ucx self-test", test.ok() ? "1 MiB moved and checked" : test.to_string());
  if (!test.ok())
    advice("export UCX_TLS=tcp,self: containers often forbid cma or have a tiny /dev/shm");
  return test.ok();
}

// Looked up at run time: nothing here is needed to build or run on the CPU.
void print_library(const char* what, const char* library, const char* missing) {
  void* handle = dlopen(library, RTLD_LAZY | RTLD_LOCAL);
  line(what, handle != nullptr ? std::string(library) + " found" : std::string("not found"));
  if (handle == nullptr) advice(missing);
  if (handle != nullptr) dlclose(handle);
}

void print_memory() {
  line("memory", fmt::format("{} available", mib(static_cast<double>(available_memory_bytes()))));
  const std::size_t limit = container_limit_bytes();
  const bool limited = limit != std::numeric_limits<std::size_t>::max();
  line("container limit", limited ? mib(static_cast<double>(limit)) : "none");
  if (limited) advice("pool_mib and the model must fit in it, or the process is killed");
  struct statvfs shm {};
  if (statvfs("/dev/shm", &shm) == 0) {
    const double bytes = static_cast<double>(shm.f_bavail) * static_cast<double>(shm.f_frsize);
    line("/dev/shm", mib(bytes) + " free");
    if (bytes < 64.0 * (1 << 20))
      advice("below 64 MiB: give the container --shm-size=1g, or UCX_TLS=tcp,self");
  } else {
    line("/dev/shm", "not mounted");
    advice("shared-memory transport is not possible: UCX_TLS=tcp,self");
  }
  rlimit locked{};
  getrlimit(RLIMIT_MEMLOCK, &locked);
  line("locked memory",
       locked.rlim_cur == RLIM_INFINITY ? "unlimited" : mib(static_cast<double>(locked.rlim_cur)));
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  line("open files", fmt::format("{}", files.rlim_cur));
  if (files.rlim_cur < 1024) advice("below 1024: raise it with ulimit -n");
}

}  // namespace

int run_doctor(const DoctorOptions& options) {
  quiet_logs();
  print_cpu();
  const Status numerics = print_numerics(options.model);
  const bool ucx = print_ucx(options);
  print_library("cuda", "libcuda.so.1", "no NVIDIA driver: everything runs on the CPU");
  print_library("nccl", "libnccl.so.2", "KV moves over UCX");
  print_memory();
  if (!numerics.ok()) return report("doctor", numerics);
  return ucx ? kExitOk : kExitFailed;
}

}  // namespace kvferry::cli
