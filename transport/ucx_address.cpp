#include "transport/ucx_address.h"

#include <cstring>
#include <filesystem>
#include <fstream>
#include <span>
#include <string_view>
#include <system_error>

#include "base/hash.h"

namespace kvferry::transport {
namespace {

constexpr std::string_view kMagic = "KVUX";
constexpr std::size_t kMaxBytes = 32 << 10;
constexpr std::size_t kCrcAt = 4, kHostAt = 8, kLengthAt = 16, kWorkerAt = 20;

template <class T>
T read_at(const std::string& bytes, std::size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

std::uint32_t crc_of(const std::string& bytes) {
  return crc32c(std::as_bytes(std::span(bytes)).subspan(kHostAt));
}

}  // namespace

std::string to_bytes(const UcxAddress& address) {
  const auto length = static_cast<std::uint32_t>(address.worker.size());
  std::string bytes(kWorkerAt, '\0');
  kMagic.copy(bytes.data(), kMagic.size());
  std::memcpy(bytes.data() + kHostAt, &address.host, sizeof address.host);
  std::memcpy(bytes.data() + kLengthAt, &length, sizeof length);
  bytes += address.worker + address.data;
  const std::uint32_t crc = crc_of(bytes);
  std::memcpy(bytes.data() + kCrcAt, &crc, sizeof crc);
  return bytes;
}

Result<UcxAddress> parse_ucx_address(const std::string& bytes) {
  if (bytes.size() < kWorkerAt || bytes.size() > kMaxBytes || !bytes.starts_with(kMagic)) {
    return invalid_argument("not the address of a UCX transport");
  }
  if (read_at<std::uint32_t>(bytes, kCrcAt) != crc_of(bytes)) {
    return data_loss("the address of a UCX transport is damaged");
  }
  const auto length = read_at<std::uint32_t>(bytes, kLengthAt);
  if (length > bytes.size() - kWorkerAt) {
    return invalid_argument("the address of a UCX transport is shorter than it says");
  }
  UcxAddress address;
  address.host = read_at<std::uint64_t>(bytes, kHostAt);
  address.worker = bytes.substr(kWorkerAt, length);
  address.data = bytes.substr(kWorkerAt + length);
  return address;
}

std::uint64_t this_host() {
  std::string id;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> id;
  std::error_code error;
  for (const char* name : {"ipc", "mnt", "net", "pid"}) {
    const auto of = std::filesystem::read_symlink(std::string("/proc/self/ns/") + name, error);
    if (error || id.empty()) return 0;
    id += of.string();
  }
  return hash64(std::as_bytes(std::span(id)));
}

}  // namespace kvferry::transport
