// A safetensors file. Layout: uint64 little-endian header length, a JSON object
// {name: {dtype, shape, data_offsets: [begin, end]}}, then the data; offsets count from its start.
// Source: the format's page, https://huggingface.co/docs/safetensors.
//
// Every length, offset, shape and dtype is checked at open(): inside the file, no overflow, no
// overlap, no hole, bytes equal to shape x dtype, no name twice; __metadata__ maps strings to
// strings. A message names the tensor.
//
// Thread contract: immutable after open(); any thread.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
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
  std::uint64_t begin = 0, bytes = 0;  // in the file
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
  Status read_status() const;

 private:
  Safetensors() = default;
  Status open_file(const std::filesystem::path& path);
  Status parse();
  Status check_layout(std::uint64_t data_begin) const;
  // Sets the read's status where it fails.
  void read(std::uint64_t begin, std::size_t bytes, std::byte* out) const;

  // Read, not mapped: a mapping takes a page fault for each 64 KiB at best, three times what the
  // copy costs, and an error of the disk would be a signal.
  int fd_ = -1;
  std::uint64_t file_bytes_ = 0;
  std::string path_;
  mutable std::atomic<bool> failed_ = false;
  std::vector<SafetensorsEntry> tensors_;
  std::map<std::string, std::size_t, std::less<>> by_name_;
};

}  // namespace kvferry::model
