// A safetensors file, whatever is in it: refused, or every tensor of a weight's type can be read.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "model/safetensors.h"

using kvferry::model::Compute;
using kvferry::model::Safetensors;
using kvferry::model::SafetensorsEntry;

namespace {

constexpr std::uint64_t kMostColumns = 1 << 16;

void read_all(const Safetensors& file, const SafetensorsEntry& entry) {
  if (entry.shape.empty() || entry.shape.size() > 2) return;
  const std::uint64_t rows = entry.shape.size() == 2 ? entry.shape[0] : 0;
  const std::uint64_t columns = entry.shape.back();
  if (columns > kMostColumns || rows > UINT32_MAX || (entry.shape.size() == 2 && rows == 0)) return;
  const auto tensor =
      file.find(entry.name, static_cast<std::uint32_t>(rows), static_cast<std::uint32_t>(columns));
  if (!tensor.ok()) return;
  std::vector<std::byte> row(columns * 4);
  for (const Compute type : {Compute::kBf16, Compute::kF32}) {
    for (const std::uint32_t at : {0u, tensor->rows - 1}) {
      file.read_rows(*tensor, at, 1, type, row.data());
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const int fd = memfd_create("fuzz", MFD_CLOEXEC);
  if (fd < 0 || ftruncate(fd, static_cast<off_t>(size)) != 0 ||
      pwrite(fd, data, size, 0) != static_cast<ssize_t>(size)) {
    std::abort();
  }
  const auto file = Safetensors::open("/proc/self/fd/" + std::to_string(fd));
  if (!file.ok()) return 0;
  for (const SafetensorsEntry& entry : (*file)->tensors()) read_all(**file, entry);
  return 0;
}
