// A safetensors file, mapped read-only. Layout: uint64 little-endian header length, a JSON object
// {name: {dtype, shape, data_offsets: [begin, end]}}, then the data; offsets count from its start.
// Source: the format's page, https://huggingface.co/docs/safetensors.
//
// Every length, offset, shape and dtype is checked at open(): inside the file, no overflow, no
// overlap, no hole, bytes equal to shape x dtype, no name twice; __metadata__ maps strings to
// strings. A message names the tensor.
//
// Thread contract: immutable after open(); any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "model/tensor_source.h"

namespace kvferry::model {

enum class Dtype : std::uint8_t { kBf16, kF16, kF32, kOther };

struct SafetensorsEntry {
  std::string name, dtype_name;
  Dtype dtype = Dtype::kOther;
  std::vector<std::uint64_t> shape;
  std::span<const std::byte> data;  // not necessarily aligned
};

class Safetensors {
 public:
  // kNotFound, or kInvalidArgument for a file that is not what it says.
  static Result<std::unique_ptr<Safetensors>> open(const std::filesystem::path& path);
  ~Safetensors();
  Safetensors(const Safetensors&) = delete;
  Safetensors& operator=(const Safetensors&) = delete;

  const std::vector<SafetensorsEntry>& tensors() const { return tensors_; }  // in order of offset

  // As TensorSource, but that a reference's index counts the tensors of this file.
  Result<TensorRef> find(const std::string& name, std::uint32_t rows, std::uint32_t columns) const;
  void read_rows(const TensorRef& tensor, std::uint32_t row0, std::uint32_t count, Compute type,
                 std::byte* out) const;

 private:
  Safetensors() = default;
  Status map(const std::filesystem::path& path);
  Status parse(std::span<const std::byte> file);
  Status check_layout(std::size_t data_bytes) const;

  void* mapping_ = nullptr;
  std::size_t mapped_bytes_ = 0;
  std::vector<SafetensorsEntry> tensors_;
  std::map<std::string, std::size_t, std::less<>> by_name_;
};

}  // namespace kvferry::model
