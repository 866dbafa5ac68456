// The codecs an operator allows, the first being the default.
// Thread contract: immutable after parse.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "codec/codec.h"

namespace kvferry::codec {

class CodecSet {
 public:
  // At least one spec; duplicates by meaning count once.
  static Result<CodecSet> parse(const std::vector<std::string>& specs);

  // The allowed codec that means the same as `spec`, which names no files; an empty one is the
  // default. kInvalidArgument
  // with the parser's message, or with the list of what is allowed; kUnavailable while an artefact
  // of it is missing.
  Result<std::shared_ptr<const Codec>> find(std::string_view spec) const;

  const std::vector<std::shared_ptr<const Codec>>& codecs() const { return codecs_; }
  std::vector<std::string> specs() const;
  // Digests of the artefacts that are not here now.
  std::vector<std::string> missing_artifacts() const;

 private:
  std::vector<std::shared_ptr<const Codec>> codecs_;
};

}  // namespace kvferry::codec
