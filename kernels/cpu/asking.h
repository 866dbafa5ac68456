// How kernels ask for the memory that they are told will be read soon (Ahead). Included only by
// files of one instruction set; all of it has internal linkage.
#pragma once

#include <immintrin.h>

#include <cstddef>

#include "kernels/attention_state.h"

namespace kvferry::kernels {
namespace {

// Asks for the lines of an Ahead in `steps` steps, into L2: what is ahead of two tiles may be more
// than L1 holds. Thread contract: one thread, within a call.
class Asking {
 public:
  Asking(const Ahead& ahead, std::size_t steps)
      : at_(reinterpret_cast<const char*>(ahead.data)),
        end_(at_ + ahead.bytes),
        bytes_((ahead.bytes + steps * kLine - 1) / (steps * kLine) * kLine) {}
  inline __attribute__((always_inline)) void step() {
    for (std::size_t i = 0; i < bytes_ && at_ < end_; i += kLine, at_ += kLine) {
      _mm_prefetch(at_, _MM_HINT_T1);
    }
  }

 private:
  static constexpr std::size_t kLine = 64;
  const char* at_;
  const char* end_;
  std::size_t bytes_;
};

}  // namespace
}  // namespace kvferry::kernels
