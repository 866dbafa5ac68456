// One arena of memory, made at start, handed out in extents; nothing on the data path allocates
// from the heap. Equation, checked by check(): for every class and in total,
//   free + leased + resident + quarantined = pool   (free is shared by the classes)
// No extent has two owners: an Extent is move-only and names one range until it is released.
//
// leased: given out, its content is not complete yet (granted to a transfer, or an open page).
// resident: content complete and immutable. quarantined: of no more use to its owner, who keeps it
// only because somebody may still write to it.
//
// Thread contract: any thread (one mutex; calls are short).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/status.h"

namespace kvferry {

enum class ExtentClass : std::uint8_t {
  kClosed,
  kOpen,
  kStaging
};  // encoded blocks, open bf16 pages, receive buffers
inline constexpr std::size_t kExtentClasses = 3;

class ExtentPool;

class Extent {
 public:
  Extent() = default;
  Extent(Extent&& other) noexcept;
  Extent& operator=(Extent&& other) noexcept;
  ~Extent();  // releases

  bool valid() const { return pool_ != nullptr; }
  std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }
  void mark_resident();  // if leased
  void quarantine();     // until release: a change of account, not of owner
  void release();        // back to free

 private:
  friend class ExtentPool;
  ExtentPool* pool_ = nullptr;
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;  // as asked for
  ExtentClass class_ = ExtentClass::kClosed;
};

struct PoolUsage {  // bytes, in allocation units
  std::size_t pool = 0, free = 0;
  struct PerClass {
    std::size_t leased = 0, resident = 0, quarantined = 0;
  };
  std::array<PerClass, kExtentClasses> classes;
};

class ExtentPool {
 public:
  static constexpr std::size_t kUnit =
      256;  // bytes; extents are aligned to it and rounded up to it

  // Maps `bytes` (rounded up to a page), touched so that a lack of memory shows here, as
  // kResourceExhausted, and not later as a signal. All extents must be gone before the pool is.
  static Result<std::unique_ptr<ExtentPool>> create(std::size_t bytes);
  ~ExtentPool();

  // Best fit. kResourceExhausted when no free range is long enough. size >= 1.
  Result<Extent> allocate(std::size_t size, ExtentClass extent_class);

  PoolUsage usage() const;
  std::size_t largest_free() const;
  Status check() const;                // the equation and the free list's consistency
  std::span<std::byte> arena() const;  // for registration with a transport

 private:
  friend class Extent;
  ExtentPool();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvferry
