// Arrays in device memory, for programs that end with a message when CUDA refuses something.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "kernels/cuda/cuda_types.h"

namespace kvferry::cuda {

inline void must(int error, const char* what) {
  if (error == 0) return;
  std::fprintf(stderr, "%s: %s\n", what, error_text(error));
  std::exit(1);
}

// Owned; zeros at first.
template <class T>
class OnDevice {
 public:
  explicit OnDevice(std::size_t count) : bytes_(count * sizeof(T)) {
    must(cudaMalloc(&data_, bytes_ == 0 ? 1 : bytes_), "cudaMalloc");
    must(cudaMemset(data_, 0, bytes_), "cudaMemset");
  }
  explicit OnDevice(const std::vector<T>& from) : OnDevice(from.size()) {
    must(cudaMemcpy(data_, from.data(), bytes_, cudaMemcpyHostToDevice), "to the device");
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  ~OnDevice() { cudaFree(data_); }

  T* data() const { return static_cast<T*>(data_); }
  std::byte* bytes() const { return static_cast<std::byte*>(data_); }
  std::vector<T> copy() const {
    std::vector<T> to(bytes_ / sizeof(T));
    must(cudaMemcpy(to.data(), data_, bytes_, cudaMemcpyDeviceToHost), "from the device");
    return to;
  }

 private:
  void* data_ = nullptr;
  std::size_t bytes_;
};

}  // namespace kvferry::cuda
