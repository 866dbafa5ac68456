// Keys of the API: who may use it, and how many requests each may have at once. The file holds
// hashes only (SHA-256 of keys that are random and long, so that no slow hash is needed):
//
//   keys:
//     - {name: alice, sha256: 64 hexadecimal digits, concurrent: 8}
//
// Thread contract: one thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/sha256.h"
#include "base/status.h"
#include "base/yaml_config.h"

namespace kvferry::gateway {

struct ApiKey {
  std::string name;              // in logs and metrics: letters, digits, '-', '_' and '.'
  Sha256 hash{};                 // of the key as clients send it
  std::uint32_t concurrent = 0;  // generations at once; 0: as many as the gateway allows
};

class ApiKeys {
 public:
  static constexpr std::size_t kMaxKeyBytes = 256;
  static constexpr std::size_t kMaxNameBytes = 64;

  // Errors name file, line and key.
  static Result<ApiKeys> load(const std::filesystem::path& file);
  // Reads and checks; the caller calls reader.finish(), which has the errors.
  static ApiKeys read(YamlReader& reader);

  // No file: everybody may use the API.
  bool empty() const { return keys_.empty(); }

  // What an Authorization header ("Bearer KEY") stands for, or null. The time it takes depends on
  // the number of keys and the header's length alone.
  const ApiKey* find(std::string_view authorization) const;

  // Counts as one of the key's requests for as long as it is held. Null when there are as many as
  // may be.
  std::shared_ptr<const void> enter(const ApiKey& key);

  const std::vector<ApiKey>& keys() const { return keys_; }
  std::uint32_t running(const ApiKey& key) const { return *count_of(key); }

 private:
  const std::shared_ptr<std::uint32_t>& count_of(const ApiKey& key) const {
    return running_[static_cast<std::size_t>(&key - keys_.data())];
  }

  std::vector<ApiKey> keys_;
  std::vector<std::shared_ptr<std::uint32_t>> running_;  // of each key
};

// A new key of 256 random bits: what the client sends, once, and the file's line for it.
struct NewApiKey {
  std::string secret;
  std::string line;
};
// kInvalidArgument for a name that a file may not have.
Result<NewApiKey> make_api_key(const std::string& name, std::uint32_t concurrent);

}  // namespace kvferry::gateway
