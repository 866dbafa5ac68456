#include "model/checkpoint.h"

#include <boost/json/value.hpp>
#include <fstream>
#include <iterator>
#include <set>
#include <utility>

#include "model/strict_json.h"

namespace kvferry::model {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

constexpr std::uint64_t kMaxIndexBytes = 100'000'000;  // as a safetensors header
constexpr std::size_t kMaxShards = 4096;               // each is an open mapping

// A name in the directory itself: whoever wrote the index may name nothing outside it.
bool is_plain_name(std::string_view name) {
  return name.ends_with(".safetensors") && name.find('/') == std::string_view::npos &&
         name.find('\0') == std::string_view::npos && name.front() != '.';
}

Result<std::string> read_index_text(const fs::path& path) {
  std::error_code error;
  const auto bytes = fs::file_size(path, error);
  if (error) return not_found("cannot read " + path.string() + ": " + error.message());
  if (bytes > kMaxIndexBytes) return invalid_argument(path.string() + " is over 100 MB long");
  std::ifstream in(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  if (!in.good() && !in.eof()) return not_found("cannot read " + path.string());
  return text;
}

}  // namespace

Result<std::unique_ptr<TensorSource>> Checkpoint::open(const fs::path& directory) {
  auto checkpoint = std::make_unique<Checkpoint>();
  const fs::path file = directory / "model.safetensors";
  const fs::path index = directory / "model.safetensors.index.json";
  std::error_code error;
  if (fs::exists(file, error)) {
    KVF_RETURN_IF_ERROR(checkpoint->open_file(file));
  } else if (fs::exists(index, error)) {
    KVF_RETURN_IF_ERROR(checkpoint->open_shards(index));
  } else {
    return not_found(
        directory.string() +
        " has neither model.safetensors nor model.safetensors.index.json; only weights in "
        "safetensors are read: get those of the checkpoint, or save it with "
        "safe_serialization");
  }
  return std::unique_ptr<TensorSource>(std::move(checkpoint));
}

Status Checkpoint::open_file(const fs::path& path) {
  KVF_ASSIGN_OR_RETURN(auto file, Safetensors::open(path));
  const std::string name = path.filename().string();
  for (std::size_t i = 0; i < file->tensors().size(); ++i) {
    const std::string& tensor = file->tensors()[i].name;
    const auto [at, fresh] = places_.try_emplace(tensor, Place{files_.size(), by_index_.size()});
    if (!fresh) {
      return invalid_argument("tensor '" + tensor + "' is in " + file_names_[at->second.file] +
                              " and in " + name +
                              "; remove one of the files, or download both "
                              "again");
    }
    by_index_.push_back({files_.size(), i});
  }
  files_.push_back(std::move(file));
  file_names_.push_back(name);
  return ok_status();
}

Status Checkpoint::open_shards(const fs::path& index) {
  KVF_ASSIGN_OR_RETURN(const WeightMap map, read_index(index));
  std::set<std::string> names;
  for (const auto& [tensor, file] : map) names.insert(file);
  if (names.size() > kMaxShards) {
    return invalid_argument(index.string() + " names " + std::to_string(names.size()) +
                            " files; at most 4096 are read");
  }
  for (const auto& name : names) {
    const fs::path path = index.parent_path() / name;
    std::error_code error;
    if (!fs::exists(path, error)) {
      return not_found(index.string() + " names " + name +
                       ", which is not there; download the whole checkpoint");
    }
    KVF_RETURN_IF_ERROR(open_file(path));
  }
  return check_against(map, index);
}

Result<Checkpoint::WeightMap> Checkpoint::read_index(const fs::path& index) {
  KVF_ASSIGN_OR_RETURN(const std::string text, read_index_text(index));
  KVF_ASSIGN_OR_RETURN(const json::object object, parse_strict_object(text, index.string()));
  const json::value* list = object.if_contains("weight_map");
  if (list == nullptr || !list->is_object() || list->get_object().empty()) {
    return invalid_argument(index.string() + ": weight_map is missing, empty or not an object");
  }
  WeightMap map;
  for (const auto& [tensor, file] : list->get_object()) {
    const std::string name(file.is_string() ? std::string_view(file.get_string()) : "");
    if (name.empty() || !is_plain_name(name)) {
      return invalid_argument(index.string() + ": tensor '" + std::string(tensor) +
                              "' is said to be in \"" + name +
                              "\"; only names such as model-00001-of-00002.safetensors, in the "
                              "same directory, are read");
    }
    map.emplace(std::string_view(tensor), name);
  }
  return map;
}

Status Checkpoint::check_against(const WeightMap& map, const fs::path& index) const {
  for (const auto& [tensor, file] : map) {
    const auto place = places_.find(tensor);
    if (place == places_.end() || file_names_[place->second.file] != file) {
      return invalid_argument(index.string() + " says that tensor '" + tensor + "' is in " + file +
                              ", but it is " +
                              (place == places_.end() ? "in none of the files"
                                                      : "in " + file_names_[place->second.file]) +
                              "; download the whole checkpoint again");
    }
  }
  for (const auto& [tensor, place] : places_) {
    if (map.contains(tensor)) continue;
    return invalid_argument(file_names_[place.file] + " has tensor '" + tensor + "', which " +
                            index.string() + " does not name; download the whole checkpoint again");
  }
  return ok_status();
}

Result<TensorRef> Checkpoint::find(const std::string& name, std::uint32_t rows,
                                   std::uint32_t columns) const {
  const auto place = places_.find(name);
  // The file that does not have it says so.
  const std::size_t file = place == places_.end() ? 0 : place->second.file;
  KVF_ASSIGN_OR_RETURN(TensorRef tensor, files_[file]->find(name, rows, columns));
  tensor.index = place->second.tensor;
  return tensor;
}

std::vector<std::string> Checkpoint::names() const {
  std::vector<std::string> names;
  for (const auto& [name, place] : places_) names.push_back(name);
  return names;
}

Status Checkpoint::read_status() const {
  for (const auto& file : files_) KVF_RETURN_IF_ERROR(file->read_status());
  return ok_status();
}

void Checkpoint::read_rows(const TensorRef& tensor, std::uint32_t row0, std::uint32_t count,
                           Compute type, std::byte* out) const {
  const Place& place = by_index_[tensor.index];
  TensorRef inside = tensor;
  inside.index = place.tensor;
  files_[place.file]->read_rows(inside, row0, count, type, out);
}

}  // namespace kvferry::model
