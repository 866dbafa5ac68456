#include "gateway/api_keys.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <utility>

#include "base/hash.h"

namespace kvferry::gateway {
namespace {

constexpr std::uint32_t kMaxConcurrent = 1 << 16;
constexpr std::string_view kScheme = "bearer ";
constexpr std::string_view kPrefix = "kvf-";

bool usable_name(std::string_view name) {
  const auto usable = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           std::string_view("-_.").find(c) != std::string_view::npos;
  };
  return !name.empty() && name.size() <= ApiKeys::kMaxNameBytes &&
         std::all_of(name.begin(), name.end(), usable);
}

// The key in an Authorization header; empty when there is none that could be one.
std::string_view bearer(std::string_view authorization) {
  if (authorization.size() <= kScheme.size()) return {};
  const auto same = [](char a, char b) { return (a | 0x20) == (b | 0x20); };
  if (!std::equal(kScheme.begin(), kScheme.end(), authorization.begin(), same)) return {};
  const std::string_view key = authorization.substr(kScheme.size());
  return key.size() <= ApiKeys::kMaxKeyBytes ? key : std::string_view{};
}

}  // namespace

Result<ApiKeys> ApiKeys::load(const std::filesystem::path& file) {
  KVF_ASSIGN_OR_RETURN(YamlReader reader, YamlReader::load(file));
  ApiKeys keys = read(reader);
  KVF_RETURN_IF_ERROR(reader.finish());
  return keys;
}

ApiKeys ApiKeys::read(YamlReader& reader) {
  ApiKeys keys;
  std::set<std::string> names;
  std::set<Sha256> hashes;
  for (YamlReader& entry : reader.maps("keys")) {
    ApiKey key;
    key.name = entry.required_string("name");
    if (!usable_name(key.name)) {
      entry.refuse("name", "must have 1 to 64 letters, digits, '-', '_' and '.'");
    } else if (!names.insert(key.name).second) {
      entry.refuse("name", "stands there twice");
    }
    const auto hash = sha256_of_hex(entry.required_string("sha256"));
    if (!hash) {
      entry.refuse("sha256", "must be 64 hexadecimal digits; 'kvferry api-key NAME' makes a key");
    } else if (!hashes.insert(*hash).second) {
      entry.refuse("sha256", "stands there twice");
    }
    key.hash = hash.value_or(Sha256{});
    key.concurrent = entry.u32("concurrent", 0, 0, kMaxConcurrent);
    keys.keys_.push_back(std::move(key));
    keys.running_.push_back(std::make_shared<std::uint32_t>(0));
  }
  if (keys.empty()) reader.refuse("keys", "must list at least one key");
  return keys;
}

const ApiKey* ApiKeys::find(std::string_view authorization) const {
  const std::string_view secret = bearer(authorization);
  const Sha256 hash = sha256(secret);
  const ApiKey* found = nullptr;
  for (const ApiKey& key : keys_) {
    if (equal_in_constant_time(key.hash, hash)) found = &key;
  }
  return secret.empty() ? nullptr : found;
}

std::shared_ptr<const void> ApiKeys::enter(const ApiKey& key) {
  const auto& running = count_of(key);
  if (key.concurrent > 0 && *running >= key.concurrent) return nullptr;
  ++*running;
  return {&key, [running](const void*) { --*running; }};
}

Result<NewApiKey> make_api_key(const std::string& name, std::uint32_t concurrent) {
  if (!usable_name(name)) {
    return invalid_argument("a key's name must have 1 to 64 letters, digits, '-', '_' and '.'");
  }
  Sha256 random;
  for (std::size_t i = 0; i < random.size(); i += sizeof(std::uint64_t)) {
    const std::uint64_t bits = fresh_id();
    std::memcpy(random.data() + i, &bits, sizeof(bits));
  }
  NewApiKey key;
  key.secret = std::string(kPrefix) + to_hex(random);
  key.line = "  - {name: " + name + ", sha256: " + to_hex(sha256(key.secret));
  if (concurrent > 0) key.line += ", concurrent: " + std::to_string(concurrent);
  key.line += "}";
  return key;
}

}  // namespace kvferry::gateway
