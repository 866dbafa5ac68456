// Zeroed memory straight from the kernel, in huge pages where it allows: decode reads every weight
// once a token, and 4 KiB pages would miss the TLB on each. Untouched until written, so the threads
// that fill it share the work of zeroing.
// Thread contract: allocate() and the destructor by one thread; the memory is plain memory.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <string>
#include <utility>

#include "base/status.h"

namespace kvferry::model {

class PageBuffer {
 public:
  PageBuffer() = default;
  PageBuffer(PageBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  PageBuffer& operator=(PageBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~PageBuffer() {
    if (data_ != nullptr) munmap(data_, bytes_);
  }

  // Once; bytes > 0. kResourceExhausted where the kernel gives none.
  Status allocate(std::size_t bytes) {
    void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
      return resource_exhausted("no memory for " + std::to_string(bytes >> 20) +
                                " MiB of weights; use a smaller model or --compute bf16");
    }
    madvise(p, bytes, MADV_HUGEPAGE);  // a hint: failure changes speed only
    data_ = static_cast<std::byte*>(p);
    bytes_ = bytes;
    return ok_status();
  }
  std::byte* data() const { return data_; }

 private:
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace kvferry::model
