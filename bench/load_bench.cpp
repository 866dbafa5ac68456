#include "bench/load_bench.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <vector>

#include "base/clock.h"
#include "base/compute_pool.h"
#include "bench/machine.h"
#include "bench/random_checkpoint.h"
#include "model/random_model.h"

namespace kvferry::bench {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kReadBytes = 8 << 20;
constexpr std::size_t kCopyBytes = std::size_t{64} << 20;  // of each thread: beyond any cache

double seconds_since(std::uint64_t begin_ns) {
  return static_cast<double>(monotonic_ns() - begin_ns) * 1e-9;
}

class TemporaryDirectory {
 public:
  ~TemporaryDirectory() {
    std::error_code error;
    if (!path_.empty()) fs::remove_all(path_, error);
  }
  Status create() {
    std::error_code error;
    std::string name = fs::temp_directory_path(error) / "kvferry-bench-XXXXXX";
    if (error || mkdtemp(name.data()) == nullptr) {
      return resource_exhausted("cannot make a temporary directory; set TMPDIR to one that exists");
    }
    path_ = name;
    return ok_status();
  }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

struct WeightFile {
  fs::path path;
  std::uint64_t bytes;
};

Result<std::vector<WeightFile>> list_weights(const fs::path& directory) {
  std::vector<WeightFile> files;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error)) {
    if (entry.path().extension() == ".safetensors") {
      files.push_back({entry.path(), entry.file_size(error)});
    }
  }
  if (error || files.empty()) {
    return not_found("no .safetensors file in " + directory.string() +
                     "; give a checkpoint's directory or random:NAME");
  }
  return files;
}

// Asks the kernel to forget the files' pages, which it does for pages that are on disk.
void drop_from_cache(const std::vector<WeightFile>& files) {
  for (const auto& file : files) {
    const int fd = ::open(file.path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) continue;
    fdatasync(fd);
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    ::close(fd);
  }
}

// All threads read pieces of the files, in order.
Result<double> read_seconds(const std::vector<WeightFile>& files, ComputePool& pool) {
  std::vector<std::vector<std::byte>> buffers(pool.threads(), std::vector<std::byte>(kReadBytes));
  const std::uint64_t begin_ns = monotonic_ns();
  for (const auto& file : files) {
    const int fd = ::open(file.path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return not_found("cannot open " + file.path.string());
    std::atomic<bool> whole = true;
    pool.parallel_for((file.bytes + kReadBytes - 1) / kReadBytes, [&](std::size_t i, int worker) {
      const std::uint64_t at = i * kReadBytes, end = std::min(file.bytes, at + kReadBytes);
      for (std::uint64_t from = at; from < end;) {
        const ssize_t n = pread(fd, buffers[worker].data(), end - from, static_cast<off_t>(from));
        if (n <= 0) {
          whole = false;
          return;
        }
        from += static_cast<std::uint64_t>(n);
      }
    });
    ::close(fd);
    if (!whole) return data_loss("cannot read all of " + file.path.string());
  }
  return seconds_since(begin_ns);
}

class CopyCeiling {
 public:
  explicit CopyCeiling(ComputePool& pool)
      : pool_(pool), from_(pool.threads() * kCopyBytes, std::byte{1}), to_(from_.size()) {}

  // Bytes copied a second, each counted once; the best of five, as a ceiling should be.
  double measure() {
    double best = 0;
    for (int i = 0; i < 5; ++i) {
      const std::uint64_t begin_ns = monotonic_ns();
      pool_.parallel_for(pool_.threads(), [&](std::size_t part, int) {
        std::memcpy(to_.data() + part * kCopyBytes, from_.data() + part * kCopyBytes, kCopyBytes);
      });
      best = std::max(best, static_cast<double>(to_.size()) / seconds_since(begin_ns));
    }
    return best;
  }

 private:
  ComputePool& pool_;
  std::vector<std::byte> from_, to_;
};

struct Load {
  double seconds, user_seconds, system_seconds;
  model::Compute compute;
};
rusage usage_now() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage;
}
double seconds_between(const timeval& from, const timeval& to) {
  return static_cast<double>(to.tv_sec - from.tv_sec) +
         static_cast<double>(to.tv_usec - from.tv_usec) * 1e-6;
}

Result<Load> load_once(const std::string& directory, const LoadBenchOptions& options,
                       ComputePool& pool) {
  model::LoadOptions load;
  load.compute = options.compute;
  load.pool = &pool;
  load.progress = options.progress;
  const rusage before = usage_now();
  const std::uint64_t begin_ns = monotonic_ns();
  KVF_ASSIGN_OR_RETURN(const auto model, model::load_model(directory, load));
  const double seconds = seconds_since(begin_ns);
  const rusage after = usage_now();
  return Load{seconds, seconds_between(before.ru_utime, after.ru_utime),
              seconds_between(before.ru_stime, after.ru_stime), model->compute()};
}

}  // namespace

Result<LoadBenchReport> run_load_bench(const LoadBenchOptions& options) {
  if (options.runs < 1 || options.threads < 1) {
    return invalid_argument("bench load needs at least one run and one thread");
  }
  ComputePool pool(options.threads);
  TemporaryDirectory temporary;
  std::string directory = options.model;
  if (const auto name = model::random_model_name(options.model)) {
    KVF_RETURN_IF_ERROR(temporary.create());
    directory = temporary.path();
    KVF_RETURN_IF_ERROR(write_random_checkpoint(std::string(*name), directory, pool));
  }
  KVF_ASSIGN_OR_RETURN(const auto files, list_weights(directory));

  LoadBenchReport report;
  report.model = options.model;
  report.cpu = cpu_name();
  report.threads = options.threads;
  report.runs = options.runs;
  for (const auto& file : files) report.bytes += file.bytes;
  const double gigabytes = static_cast<double>(report.bytes) * 1e-9;
  drop_from_cache(files);
  KVF_ASSIGN_OR_RETURN(const double read, read_seconds(files, pool));
  report.disk_gb_per_s = gigabytes / read;
  drop_from_cache(files);
  KVF_ASSIGN_OR_RETURN(const Load cold, load_once(directory, options, pool));
  report.compute = cold.compute == model::Compute::kBf16 ? "bf16" : "f32";
  report.cold_seconds = cold.seconds;
  report.cold_gb_per_s = gigabytes / cold.seconds;

  std::vector<Load> loads;
  for (int i = 0; i < options.runs; ++i) {
    report.copy_gb_per_s = std::max(report.copy_gb_per_s, CopyCeiling(pool).measure() * 1e-9);
    KVF_ASSIGN_OR_RETURN(const Load warm, load_once(directory, options, pool));
    loads.push_back(warm);
  }
  std::sort(loads.begin(), loads.end(),
            [](const Load& a, const Load& b) { return a.seconds < b.seconds; });
  const Load& median = loads[loads.size() / 2];
  report.seconds = median.seconds;
  report.user_seconds = median.user_seconds;
  report.system_seconds = median.system_seconds;
  report.seconds_min = loads.front().seconds;
  report.seconds_max = loads.back().seconds;
  report.gb_per_s = gigabytes / report.seconds;
  return report;
}

boost::json::object to_json(const LoadBenchReport& r) {
  return {{"model", r.model},
          {"compute", r.compute},
          {"cpu", r.cpu},
          {"threads", r.threads},
          {"runs", r.runs},
          {"bytes", r.bytes},
          {"cold_seconds", r.cold_seconds},
          {"cold_gb_per_s", r.cold_gb_per_s},
          {"disk_gb_per_s", r.disk_gb_per_s},
          {"seconds", r.seconds},
          {"seconds_min", r.seconds_min},
          {"seconds_max", r.seconds_max},
          {"user_seconds", r.user_seconds},
          {"system_seconds", r.system_seconds},
          {"gb_per_s", r.gb_per_s},
          {"copy_gb_per_s", r.copy_gb_per_s}};
}

std::string to_text(const LoadBenchReport& r) {
  char text[640];
  std::snprintf(text, sizeof(text),
                "%s, %s, %d threads, %s: %.2f GB of weights\n"
                "from disk        %7.2f s  %6.2f GB/s; reading the files alone %.2f GB/s\n"
                "from page cache  %7.2f s  %6.2f GB/s (%.2f to %.2f s); copying memory %.2f GB/s\n"
                "CPU time of it   %7.2f s in the program, %.2f s in the kernel\n",
                r.model.c_str(), r.compute.c_str(), r.threads, r.cpu.c_str(),
                static_cast<double>(r.bytes) * 1e-9, r.cold_seconds, r.cold_gb_per_s,
                r.disk_gb_per_s, r.seconds, r.gb_per_s, r.seconds_min, r.seconds_max,
                r.copy_gb_per_s, r.user_seconds, r.system_seconds);
  return text;
}

}  // namespace kvferry::bench
