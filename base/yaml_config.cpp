#include "base/yaml_config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <exception>
#include <fstream>
#include <set>
#include <sstream>
#include <system_error>
#include <utility>

namespace kvferry {
namespace {

enum class Kind { kEmpty, kScalar, kList, kMap };

std::string_view kind_name(Kind kind) {
  switch (kind) {
    case Kind::kEmpty:
      return "nothing";
    case Kind::kScalar:
      return "a value";
    case Kind::kList:
      return "a list";
    case Kind::kMap:
      break;
  }
  return "a map";
}

template <class T>
bool parse_number(std::string_view text, T& value) {
  const char* const end = text.data() + text.size();
  const auto [stopped, error] = std::from_chars(text.data(), end, value);
  return error == std::errc() && stopped == end;
}

// yaml-cpp reads a tag such as "!a," for ever, and takes memory for it. Tags are not used here, so
// what may begin one never gets there: a "!" that stands behind nothing that words are made of,
// between quotes too, where telling would take a scanner. Its line from 1, or 0.
int line_of_tag(std::string_view text) {
  const auto in_a_word = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '.' || c == ')' || c == '!';
  };
  int number = 1;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find_first_of("\r\n"), text.size());
    std::string_view line = text.substr(0, end);
    const bool ends_line = end < text.size() && text[end] == '\n';
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.find_first_of("\"'") == std::string_view::npos) {  // else "#" may be of a text
      const std::size_t comment = line.starts_with('#') ? 0 : line.find(" #");
      line = line.substr(0, comment);
    }
    for (std::size_t at = line.find('!'); at != std::string_view::npos;
         at = line.find('!', at + 1)) {
      if (at == 0 || !in_a_word(line[at - 1])) return number;
    }
    if (ends_line) ++number;
  }
  return 0;
}

// Hears where the last document begins.
class DocumentStarts final : public YAML::EventHandler {
 public:
  int line = 0;  // from 1

  void OnDocumentStart(const YAML::Mark& mark) override { line = mark.line + 1; }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
  void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
  void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t,
                const std::string&) override {}
  void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {}
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                  YAML::EmitterStyle::value) override {}
  void OnMapEnd() override {}
};

// Or 0. YAML::LoadAll is no way to tell: behind "{}," it finds documents for ever.
int line_of_second_document(std::string_view text) {
  std::istringstream stream{std::string(text)};
  YAML::Parser parser(stream);
  DocumentStarts starts;
  const bool second = parser.HandleNextDocument(starts) && parser.HandleNextDocument(starts);
  return second ? starts.line : 0;
}

}  // namespace

struct YamlReader::Node {
  Node();  // behind the struct: clang wants the pairs below complete first
  Kind kind = Kind::kEmpty;
  int line = 1;
  std::string text;     // of a scalar
  bool quoted = false;  // which makes it a string whatever it looks like
  std::vector<std::pair<std::string, Node>> entries;  // of a map, in the file's order
  std::vector<Node> items;                            // of a list
  std::vector<std::string> known;                     // keys of this map that somebody asked for
};

YamlReader::Node::Node() = default;

struct YamlReader::Document {
  struct Error {
    int line;
    std::string text;
  };
  std::string name;
  Node root;
  std::vector<Error> errors;
  std::size_t nodes = 0;

  std::string at(int line) const { return fmt::format("{}:{}: ", name, line); }

  Status convert(const YAML::Node& from, Node& to, int depth);
  Status convert_map(const YAML::Node& from, Node& to, int depth);
  void collect_unknown(const Node& node, const std::string& path, std::vector<Error>& found) const;
};

Status YamlReader::Document::convert(const YAML::Node& from, Node& to, int depth) {
  to.line = std::max(from.Mark().line + 1, 1);
  if (++nodes > kMaxNodes) {
    return invalid_argument(at(to.line) + fmt::format("more than {} values", kMaxNodes));
  }
  if (depth > kMaxDepth) {
    return invalid_argument(at(to.line) + fmt::format("nested more than {} deep", kMaxDepth));
  }
  switch (from.Type()) {
    case YAML::NodeType::Undefined:
    case YAML::NodeType::Null:
      to.kind = Kind::kEmpty;
      return {};
    case YAML::NodeType::Scalar:
      to.kind = Kind::kScalar;
      to.text = from.Scalar();
      to.quoted = from.Tag() == "!";  // of a plain one it is "?"
      return {};
    case YAML::NodeType::Sequence:
      to.kind = Kind::kList;
      for (const YAML::Node& item : from) {
        KVF_RETURN_IF_ERROR(convert(item, to.items.emplace_back(), depth + 1));
      }
      return {};
    case YAML::NodeType::Map:
      break;
  }
  return convert_map(from, to, depth);
}

Status YamlReader::Document::convert_map(const YAML::Node& from, Node& to, int depth) {
  to.kind = Kind::kMap;
  std::set<std::string> seen;
  for (const auto& entry : from) {
    const int line = entry.first.Mark().line + 1;
    if (!entry.first.IsScalar()) return invalid_argument(at(line) + "a key must be plain text");
    const std::string& key = entry.first.Scalar();
    if (!seen.insert(key).second) {
      return invalid_argument(at(line) + fmt::format("key '{}' is given twice", key));
    }
    auto& [name_there, value] = to.entries.emplace_back(key, Node());
    KVF_RETURN_IF_ERROR(convert(entry.second, value, depth + 1));
    value.line = std::max(line, 1);  // messages are about the key
  }
  return {};
}

void YamlReader::Document::collect_unknown(const Node& node, const std::string& path,
                                           std::vector<Error>& found) const {
  for (const auto& [key, value] : node.entries) {
    const std::string full = path.empty() ? key : path + "." + key;
    if (std::find(node.known.begin(), node.known.end(), key) != node.known.end()) {
      collect_unknown(value, full, found);
      continue;
    }
    std::vector<std::string> known = node.known;
    std::sort(known.begin(), known.end());
    found.push_back(
        {value.line,
         fmt::format("unknown key '{}'; known here: {}", full,
                     known.empty() ? "none" : fmt::format("{}", fmt::join(known, ", ")))});
  }
  for (std::size_t i = 0; i < node.items.size(); ++i) {
    collect_unknown(node.items[i], fmt::format("{}[{}]", path, i), found);
  }
}

Result<YamlReader> YamlReader::load(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  std::string text(kMaxBytes + 1, '\0');
  std::error_code ignored;
  if (!stream || !std::filesystem::is_regular_file(file, ignored)) {
    return not_found(fmt::format("cannot read the configuration file {}", file.string()));
  }
  stream.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(stream.gcount()));
  return parse(text, file.string());
}

Result<YamlReader> YamlReader::parse(std::string_view text, std::string name) {
  if (text.size() > kMaxBytes) {
    return invalid_argument(fmt::format("{}: larger than {} bytes", name, kMaxBytes));
  }
  auto document = std::make_shared<Document>();
  document->name = std::move(name);
  if (const int line = line_of_tag(text); line != 0) {
    return invalid_argument(document->at(line) +
                            "tags are not used here, and no word begins with \"!\"");
  }
  try {
    if (const int line = line_of_second_document(text); line != 0) {
      return invalid_argument(document->at(line) + "more than one document");
    }
    KVF_RETURN_IF_ERROR(document->convert(YAML::Load(std::string(text)), document->root, 0));
  } catch (const YAML::Exception& error) {
    return invalid_argument(document->at(error.mark.line + 1) + error.msg);
  } catch (const std::exception& error) {
    return invalid_argument(fmt::format("{}: {}", document->name, error.what()));
  }
  Node& root = document->root;
  if (root.kind != Kind::kMap && root.kind != Kind::kEmpty) {
    return invalid_argument(document->at(root.line) +
                            fmt::format("expected a map, found {}", kind_name(root.kind)));
  }
  return YamlReader(std::move(document), &root, "");
}

YamlReader::YamlReader(std::shared_ptr<Document> document, Node* node, std::string path)
    : document_(std::move(document)), node_(node), path_(std::move(path)) {}

std::string YamlReader::name_of(const std::string& key) const {
  return path_.empty() ? key : path_ + "." + key;
}

YamlReader::Node* YamlReader::find(const std::string& key) {
  if (node_ == nullptr) return nullptr;
  if (std::find(node_->known.begin(), node_->known.end(), key) == node_->known.end()) {
    node_->known.push_back(key);
  }
  for (auto& [name, value] : node_->entries) {
    if (name == key) return &value;
  }
  return nullptr;
}

bool YamlReader::has(const std::string& key) const {
  return node_ != nullptr && std::any_of(node_->entries.begin(), node_->entries.end(),
                                         [&](const auto& entry) { return entry.first == key; });
}

bool YamlReader::is_map(const std::string& key) const {
  return node_ != nullptr &&
         std::any_of(node_->entries.begin(), node_->entries.end(), [&](const auto& entry) {
           return entry.first == key && entry.second.kind == Kind::kMap;
         });
}

void YamlReader::wrong(const Node& node, const std::string& key, const std::string& expected) {
  const std::string found = node.kind == Kind::kScalar
                                ? fmt::format("{}{}{}", node.quoted ? "the text \"" : "'",
                                              node.text, node.quoted ? "\"" : "'")
                                : std::string(kind_name(node.kind));
  document_->errors.push_back(
      {node.line, fmt::format("{}: expected {}, found {}", name_of(key), expected, found)});
}

YamlReader::Node* YamlReader::scalar(const std::string& key, std::string_view expected) {
  Node* const node = find(key);
  if (node == nullptr || node->kind == Kind::kScalar) return node;
  wrong(*node, key, std::string(expected));
  return nullptr;
}

std::uint64_t YamlReader::u64(const std::string& key, std::uint64_t otherwise, std::uint64_t min,
                              std::uint64_t max) {
  const std::string expected = fmt::format("a whole number from {} to {}", min, max);
  const Node* const node = scalar(key, expected);
  if (node == nullptr) return otherwise;
  std::uint64_t value = 0;
  if (!node->quoted && parse_number(node->text, value) && value >= min && value <= max) {
    return value;
  }
  wrong(*node, key, expected);
  return otherwise;
}

std::uint32_t YamlReader::u32(const std::string& key, std::uint32_t otherwise, std::uint32_t min,
                              std::uint32_t max) {
  return static_cast<std::uint32_t>(u64(key, otherwise, min, max));
}

double YamlReader::f64(const std::string& key, double otherwise, double min, double max) {
  const std::string expected = fmt::format("a number from {} to {}", min, max);
  const Node* const node = scalar(key, expected);
  if (node == nullptr) return otherwise;
  double value = 0;
  if (!node->quoted && parse_number(node->text, value) && std::isfinite(value) && value >= min &&
      value <= max) {
    return value;
  }
  wrong(*node, key, expected);
  return otherwise;
}

bool YamlReader::boolean(const std::string& key, bool otherwise) {
  const Node* const node = scalar(key, "true or false");
  if (node == nullptr) return otherwise;
  if (!node->quoted && node->text == "true") return true;
  if (!node->quoted && node->text == "false") return false;
  wrong(*node, key, "true or false");
  return otherwise;
}

std::string YamlReader::string(const std::string& key, const std::string& otherwise) {
  const Node* const node = scalar(key, "a text");
  return node == nullptr ? otherwise : node->text;
}

std::string YamlReader::required_string(const std::string& key) {
  if (find(key) == nullptr) {
    document_->errors.push_back(
        {node_ == nullptr ? 1 : node_->line, fmt::format("{} is missing", name_of(key))});
    return {};
  }
  const Node* const node = scalar(key, "a text");
  if (node == nullptr) return {};
  if (node->text.empty()) wrong(*node, key, "a text that is not empty");
  return node->text;
}

std::vector<std::string> YamlReader::strings(const std::string& key,
                                             const std::vector<std::string>& otherwise) {
  const Node* const node = find(key);
  if (node == nullptr) return otherwise;
  const std::string expected = "a list of texts";
  if (node->kind != Kind::kList) {
    wrong(*node, key, expected);
    return otherwise;
  }
  std::vector<std::string> values;
  for (const Node& item : node->items) {
    if (item.kind != Kind::kScalar) {
      wrong(item, key, expected);
      return otherwise;
    }
    values.push_back(item.text);
  }
  return values;
}

YamlReader YamlReader::map(const std::string& key) {
  Node* node = find(key);
  if (node != nullptr && node->kind != Kind::kMap) {
    wrong(*node, key, "a map");
    node = nullptr;
  }
  return {document_, node, name_of(key)};
}

std::vector<YamlReader> YamlReader::maps(const std::string& key) {
  Node* const node = find(key);
  if (node == nullptr) return {};
  if (node->kind != Kind::kList) {
    wrong(*node, key, "a list of maps");
    return {};
  }
  std::vector<YamlReader> readers;
  for (std::size_t i = 0; i < node->items.size(); ++i) {
    const std::string name = fmt::format("{}[{}]", key, i);
    if (node->items[i].kind != Kind::kMap) {
      wrong(node->items[i], name, "a map");
    } else {
      readers.push_back(YamlReader(document_, &node->items[i], name_of(name)));
    }
  }
  return readers;
}

std::vector<std::string> YamlReader::keys() {
  std::vector<std::string> names;
  if (node_ == nullptr) return names;
  for (const auto& entry : node_->entries) {
    names.push_back(entry.first);
    find(entry.first);
  }
  return names;
}

void YamlReader::refuse(const std::string& key, const std::string& why) {
  const Node* const node = find(key);
  const int line = node != nullptr ? node->line : node_ != nullptr ? node_->line : 1;
  document_->errors.push_back({line, fmt::format("{}: {}", name_of(key), why)});
}

Status YamlReader::finish() const {
  std::vector<Document::Error> errors = document_->errors;
  document_->collect_unknown(document_->root, "", errors);
  if (errors.empty()) return {};
  std::stable_sort(errors.begin(), errors.end(),
                   [](const auto& a, const auto& b) { return a.line < b.line; });
  std::string text;
  for (const auto& error : errors) {
    if (!text.empty()) text += "; ";
    text += document_->at(error.line) + error.text;
  }
  return invalid_argument(std::move(text));
}

}  // namespace kvferry
