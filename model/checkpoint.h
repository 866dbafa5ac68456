// The tensors of a Hugging Face directory: model.safetensors, or the files that
// model.safetensors.index.json names ({"metadata": ..., "weight_map": {tensor: file}}).
// transformers prefers the single file where both are there, and so does this.
//
// Every tensor lies in exactly one file, and where there is an index it and the files agree about
// which; file names are plain names of the directory itself.
//
// Thread contract: immutable after open(); any thread.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "model/safetensors.h"
#include "model/tensor_source.h"

namespace kvferry::model {

class Checkpoint : public TensorSource {
 public:
  // kNotFound where a file is missing, kInvalidArgument for files that are not what they say. The
  // message names file and tensor.
  static Result<std::unique_ptr<TensorSource>> open(const std::filesystem::path& directory);

  Result<TensorRef> find(const std::string& name, std::uint32_t rows,
                         std::uint32_t columns) const override;
  std::vector<std::string> names() const override;
  void read_rows(const TensorRef& tensor, std::uint32_t row0, std::uint32_t count, Compute type,
                 std::byte* out) const override;
  Status read_status() const override;

 private:
  using WeightMap = std::map<std::string, std::string, std::less<>>;  // tensor to file name

  Status open_file(const std::filesystem::path& path);
  Status open_shards(const std::filesystem::path& index);
  Status check_against(const WeightMap& map, const std::filesystem::path& index) const;
  static Result<WeightMap> read_index(const std::filesystem::path& index);

  std::vector<std::unique_ptr<Safetensors>> files_;
  std::vector<std::string> file_names_;
  struct Place {
    std::size_t file, tensor;
  };
  std::map<std::string, Place, std::less<>> places_;
  std::vector<Place> by_index_;  // a TensorRef's index counts these
};

}  // namespace kvferry::model
