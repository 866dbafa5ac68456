// Files that codecs need beside their spec, held by the process under a digest of their content: a
// spec that names a digest means the same in every process that has the file. Control connections
// carry them to workers that lack one (docs/codecs.md, "Artefacts").
//
// Thread contract: any thread; what is here stays and does not change.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "base/status.h"

namespace kvferry::codec {

inline constexpr std::size_t kMaxArtifactBytes = std::size_t{1} << 20;
inline constexpr std::size_t kMaxArtifacts = 256;  // of a process

// "sha256-" and the first 32 hexadecimal digits of the content's SHA-256.
std::string artifact_digest(std::string_view content);
bool is_artifact_digest(std::string_view text);

// Keeps the content and returns its digest. kInvalidArgument beyond kMaxArtifactBytes,
// kResourceExhausted beyond kMaxArtifacts.
Result<std::string> add_artifact(std::string content);

// The content of a digest, or null when it is not here.
std::shared_ptr<const std::string> find_artifact(std::string_view digest);

}  // namespace kvferry::codec
