#include "codec/artifacts.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <utility>

#include "base/sha256.h"

namespace kvferry::codec {
namespace {

constexpr std::string_view kPrefix = "sha256-";
constexpr std::size_t kDigits = 32;

struct Shelf {
  std::mutex mutex;
  std::map<std::string, std::shared_ptr<const std::string>, std::less<>> contents;  // by digest
};

Shelf& shelf() {
  static Shelf shelf;
  return shelf;
}

}  // namespace

std::string artifact_digest(std::string_view content) {
  return std::string(kPrefix) + to_hex(sha256(content)).substr(0, kDigits);
}

bool is_artifact_digest(std::string_view text) {
  const auto is_digit = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
  return text.size() == kPrefix.size() + kDigits && text.substr(0, kPrefix.size()) == kPrefix &&
         std::all_of(text.begin() + kPrefix.size(), text.end(), is_digit);
}

Result<std::string> add_artifact(std::string content) {
  if (content.size() > kMaxArtifactBytes) {
    return invalid_argument("an artefact of " + std::to_string(content.size()) +
                            " bytes; at most " + std::to_string(kMaxArtifactBytes));
  }
  std::string digest = artifact_digest(content);
  const std::lock_guard lock(shelf().mutex);
  auto& contents = shelf().contents;
  if (contents.contains(digest)) return digest;
  if (contents.size() >= kMaxArtifacts) {
    return resource_exhausted("this process holds " + std::to_string(kMaxArtifacts) +
                              " artefacts, which is the most");
  }
  contents.emplace(digest, std::make_shared<const std::string>(std::move(content)));
  return digest;
}

std::shared_ptr<const std::string> find_artifact(std::string_view digest) {
  const std::lock_guard lock(shelf().mutex);
  const auto found = shelf().contents.find(digest);
  return found == shelf().contents.end() ? nullptr : found->second;
}

}  // namespace kvferry::codec
