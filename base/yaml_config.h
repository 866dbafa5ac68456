// Strict reading of YAML configuration. A reader of a map hands out typed values with defaults and
// ranges and remembers which keys it was asked for; finish() then refuses everything that was wrong
// or unknown, with file, line and key, so that a typing error never silently means the default.
//
//   KVF_ASSIGN_OR_RETURN(YamlReader config, YamlReader::load("worker.yaml"));
//   YamlReader decode = config.map("decode");
//   options.threads = decode.u32("threads", 2, 1, 1024);
//   KVF_RETURN_IF_ERROR(config.finish());   // covers nested readers too; before it, values are
//                                           // the defaults where the file was wrong
//
// Refused: duplicate keys, tags (so no word begins with "!", even between quotes), several
// documents, empty values, more than kMaxBytes, kMaxNodes (aliases count as often as they are used)
// or kMaxDepth. Numbers are decimal and unquoted; booleans are true and false.
//
// Thread contract: one thread. Readers of one file share it and keep it alive.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace kvferry {

class YamlReader {
 public:
  static constexpr std::size_t kMaxBytes = 1 << 20;
  static constexpr std::size_t kMaxNodes = 20'000;
  static constexpr int kMaxDepth = 32;

  // kNotFound when the file cannot be read, kInvalidArgument when it is not YAML or not a map.
  // An empty file is an empty map.
  static Result<YamlReader> load(const std::filesystem::path& file);
  // `name` stands for the file in messages.
  static Result<YamlReader> parse(std::string_view text, std::string name);

  bool has(const std::string& key) const;
  bool is_map(const std::string& key) const;  // whether there is a map under `key`

  // The value of `key`, or `otherwise` when there is none or a wrong one. Bounds are inclusive.
  std::uint32_t u32(const std::string& key, std::uint32_t otherwise, std::uint32_t min = 0,
                    std::uint32_t max = std::numeric_limits<std::uint32_t>::max());
  std::uint64_t u64(const std::string& key, std::uint64_t otherwise, std::uint64_t min = 0,
                    std::uint64_t max = std::numeric_limits<std::uint64_t>::max());
  double f64(const std::string& key, double otherwise, double min, double max);
  bool boolean(const std::string& key, bool otherwise);
  std::string string(const std::string& key, const std::string& otherwise);
  std::string required_string(const std::string& key);  // absent or empty is an error
  std::vector<std::string> strings(const std::string& key,
                                   const std::vector<std::string>& otherwise = {});
  // A nested map; an empty one when the key is absent.
  YamlReader map(const std::string& key);
  // A list of maps; empty when the key is absent.
  std::vector<YamlReader> maps(const std::string& key);
  // The keys of this map in the file's order, all of which count as known from then on: for maps
  // whose keys are names that the user chooses.
  std::vector<std::string> keys();

  // Adds an error about `key` to what finish() reports: for checks between values.
  void refuse(const std::string& key, const std::string& why);

  // OK, or kInvalidArgument with every error of the file in the order of its lines.
  Status finish() const;

 private:
  struct Node;
  struct Document;
  YamlReader(std::shared_ptr<Document> document, Node* node, std::string path);
  Node* find(const std::string& key);
  Node* scalar(const std::string& key, std::string_view expected);
  std::string name_of(const std::string& key) const;
  void wrong(const Node& node, const std::string& key, const std::string& expected);

  std::shared_ptr<Document> document_;
  Node* node_ = nullptr;  // a map of the document, or none when it is absent
  std::string path_;      // "decode.pool", for messages
};

}  // namespace kvferry
