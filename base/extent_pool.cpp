#include "base/extent_pool.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <utility>

#include "base/memory_limits.h"

namespace kvferry {
namespace {

enum class Use : std::uint8_t { kLeased, kResident, kQuarantined };

struct Range {
  std::size_t size = 0;
  ExtentClass extent_class = ExtentClass::kClosed;
  Use use = Use::kLeased;
};

std::size_t round_up(std::size_t size, std::size_t unit) { return (size + unit - 1) / unit * unit; }

Status no_memory(std::size_t bytes, const std::string& why) {
  return resource_exhausted(
      fmt::format("cannot reserve a pool of {} MiB: {}. Lower the pool size in the configuration "
                  "or give the process more memory",
                  bytes >> 20, why));
}

// Gives every page memory now. MADV_POPULATE_WRITE (Linux 5.14) says when there is none.
Status touch(std::byte* data, std::size_t size) {
#ifdef MADV_POPULATE_WRITE
  constexpr int kPopulateWrite = MADV_POPULATE_WRITE;
#else
  constexpr int kPopulateWrite = 23;
#endif
  if (madvise(data, size, kPopulateWrite) == 0) return {};
  if (errno != EINVAL) return no_memory(size, std::strerror(errno));
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  for (std::size_t at = 0; at < size; at += page) {
    *static_cast<volatile std::byte*>(data + at) = std::byte{0};
  }
  return {};
}

}  // namespace

struct ExtentPool::Impl {
  mutable std::mutex mutex;
  std::byte* arena = nullptr;
  std::size_t size = 0;
  // Two views of the free ranges, no two of which touch: by place for coalescing, by size for best
  // fit.
  std::map<std::size_t, std::size_t> free_by_place;            // offset -> size
  std::set<std::pair<std::size_t, std::size_t>> free_by_size;  // (size, offset)
  std::map<std::size_t, Range> used;                           // offset -> range
  PoolUsage usage;

  std::size_t& tally(const Range& range) {
    auto& of_class = usage.classes[static_cast<std::size_t>(range.extent_class)];
    switch (range.use) {
      case Use::kLeased:
        return of_class.leased;
      case Use::kResident:
        return of_class.resident;
      case Use::kQuarantined:
        break;
    }
    return of_class.quarantined;
  }

  void add_free(std::size_t offset, std::size_t bytes) {
    free_by_place.emplace(offset, bytes);
    free_by_size.emplace(bytes, offset);
  }

  void take_free(std::map<std::size_t, std::size_t>::iterator range) {
    free_by_size.erase({range->second, range->first});
    free_by_place.erase(range);
  }

  std::map<std::size_t, Range>::iterator find(const std::byte* data) {
    return used.find(static_cast<std::size_t>(data - arena));
  }

  void change(Range& range, Use use) {
    tally(range) -= range.size;
    range.use = use;
    tally(range) += range.size;
  }

  void give_back(std::map<std::size_t, Range>::iterator range) {
    std::size_t offset = range->first;
    std::size_t bytes = range->second.size;
    tally(range->second) -= bytes;
    usage.free += bytes;
    auto after = free_by_place.lower_bound(offset);
    if (after != free_by_place.end() && after->first == offset + bytes) {
      bytes += after->second;
      take_free(after++);
    }
    if (after != free_by_place.begin()) {
      const auto before = std::prev(after);
      if (before->first + before->second == offset) {
        offset = before->first;
        bytes += before->second;
        take_free(before);
      }
    }
    add_free(offset, bytes);
    used.erase(range);
  }
};

ExtentPool::ExtentPool() : impl_(std::make_unique<Impl>()) {}

ExtentPool::~ExtentPool() {
  if (impl_->arena != nullptr) munmap(impl_->arena, impl_->size);
}

Result<std::unique_ptr<ExtentPool>> ExtentPool::create(std::size_t bytes) {
  if (bytes == 0) return invalid_argument("a pool needs at least one byte");
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  if (bytes > std::numeric_limits<std::size_t>::max() - page) {
    return no_memory(bytes, "it is larger than the address space");
  }
  const std::size_t size = round_up(bytes, page);
  const std::size_t available = std::min(available_memory_bytes(), container_limit_bytes());
  if (size > available) {
    return no_memory(size, fmt::format("{} MiB are available", available >> 20));
  }
  void* mapped = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return no_memory(size, std::strerror(errno));
  std::unique_ptr<ExtentPool> pool(new ExtentPool);
  pool->impl_->arena = static_cast<std::byte*>(mapped);
  pool->impl_->size = size;
  madvise(mapped, size, MADV_HUGEPAGE);  // fewer TLB misses in attention; a refusal costs nothing
  KVF_RETURN_IF_ERROR(touch(pool->impl_->arena, size));
  pool->impl_->usage.pool = pool->impl_->usage.free = size;
  pool->impl_->add_free(0, size);
  return pool;
}

Result<Extent> ExtentPool::allocate(std::size_t size, ExtentClass extent_class) {
  if (size == 0) return invalid_argument("an extent needs at least one byte");
  Impl& impl = *impl_;
  std::lock_guard lock(impl.mutex);
  const auto fit = size > impl.size ? impl.free_by_size.end()
                                    : impl.free_by_size.lower_bound({round_up(size, kUnit), 0});
  if (fit == impl.free_by_size.end()) {
    const std::size_t largest = impl.free_by_size.empty() ? 0 : impl.free_by_size.rbegin()->first;
    return resource_exhausted(
        fmt::format("no free range of {} bytes in a pool of {}: {} are free, {} in one piece", size,
                    impl.size, impl.usage.free, largest));
  }
  const auto [found, offset] = *fit;
  const std::size_t rounded = round_up(size, kUnit);
  impl.take_free(impl.free_by_place.find(offset));
  if (found > rounded) impl.add_free(offset + rounded, found - rounded);
  const Range range{rounded, extent_class, Use::kLeased};
  impl.used.emplace(offset, range);
  impl.usage.free -= rounded;
  impl.tally(range) += rounded;
  Extent extent;
  extent.pool_ = this;
  extent.data_ = impl.arena + offset;
  extent.size_ = size;
  extent.class_ = extent_class;
  return extent;
}

PoolUsage ExtentPool::usage() const {
  std::lock_guard lock(impl_->mutex);
  return impl_->usage;
}

std::size_t ExtentPool::largest_free() const {
  std::lock_guard lock(impl_->mutex);
  return impl_->free_by_size.empty() ? 0 : impl_->free_by_size.rbegin()->first;
}

Status ExtentPool::check() const {
  const Impl& impl = *impl_;
  std::lock_guard lock(impl.mutex);
  std::size_t tallied = impl.usage.free;
  for (const auto& of_class : impl.usage.classes) {
    tallied += of_class.leased + of_class.resident + of_class.quarantined;
  }
  if (tallied != impl.usage.pool || impl.usage.pool != impl.size) {
    return internal_error(
        fmt::format("pool of {} bytes, but {} accounted for", impl.size, tallied));
  }
  // Free and used ranges must tile the arena, with no two free ones side by side.
  std::size_t at = 0;
  std::size_t free_bytes = 0;
  bool last_was_free = false;
  while (at < impl.size) {
    if (const auto free = impl.free_by_place.find(at); free != impl.free_by_place.end()) {
      if (last_was_free || impl.free_by_size.count({free->second, at}) == 0) break;
      free_bytes += free->second;
      at += free->second;
      last_was_free = true;
    } else if (const auto used = impl.used.find(at); used != impl.used.end()) {
      at += used->second.size;
      last_was_free = false;
    } else {
      break;
    }
  }
  if (at != impl.size || free_bytes != impl.usage.free ||
      impl.free_by_place.size() != impl.free_by_size.size()) {
    return internal_error(
        fmt::format("pool of {} bytes: ranges do not fit together at {}", impl.size, at));
  }
  return {};
}

std::span<std::byte> ExtentPool::arena() const { return {impl_->arena, impl_->size}; }

Extent::Extent(Extent&& other) noexcept
    : pool_(std::exchange(other.pool_, nullptr)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      class_(other.class_) {}

Extent& Extent::operator=(Extent&& other) noexcept {
  if (this == &other) return *this;
  release();
  pool_ = std::exchange(other.pool_, nullptr);
  data_ = std::exchange(other.data_, nullptr);
  size_ = std::exchange(other.size_, 0);
  class_ = other.class_;
  return *this;
}

Extent::~Extent() { release(); }

void Extent::mark_resident() {
  if (!valid()) return;
  ExtentPool::Impl& impl = *pool_->impl_;
  std::lock_guard lock(impl.mutex);
  Range& range = impl.find(data_)->second;
  if (range.use == Use::kLeased) impl.change(range, Use::kResident);
}

void Extent::quarantine() {
  if (!valid()) return;
  ExtentPool::Impl& impl = *pool_->impl_;
  std::lock_guard lock(impl.mutex);
  impl.change(impl.find(data_)->second, Use::kQuarantined);
}

void Extent::release() {
  if (!valid()) return;
  ExtentPool::Impl& impl = *pool_->impl_;
  {
    std::lock_guard lock(impl.mutex);
    impl.give_back(impl.find(data_));
  }
  pool_ = nullptr;
  data_ = nullptr;
  size_ = 0;
}

}  // namespace kvferry
