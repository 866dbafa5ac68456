#include "codec/codec_set.h"

#include <algorithm>
#include <utility>

#include "codec/artifacts.h"

namespace kvferry::codec {

Result<CodecSet> CodecSet::parse(const std::vector<std::string>& specs) {
  if (specs.empty()) return invalid_argument("the list of allowed codecs is empty");
  CodecSet set;
  for (const std::string& spec : specs) {
    KVF_ASSIGN_OR_RETURN(auto codec, make_codec(spec));
    const bool known = std::any_of(set.codecs_.begin(), set.codecs_.end(),
                                   [&](const auto& other) { return other->id() == codec->id(); });
    if (!known) set.codecs_.push_back(std::move(codec));
  }
  return set;
}

Result<std::shared_ptr<const Codec>> CodecSet::find(std::string_view spec) const {
  if (spec.empty()) return find(codecs_.front()->spec());
  for (const auto& codec : codecs_) {
    if (codec->spec() == spec && codec->missing_artifact().empty()) return codec;
  }
  KVF_ASSIGN_OR_RETURN(const auto wanted, make_codec(spec, SpecFiles::kRefuse));
  for (const auto& codec : codecs_) {
    if (codec->id() != wanted->id()) continue;
    // An artefact may have come since the set was made.
    if (!wanted->missing_artifact().empty()) {
      return unavailable("codec \"" + wanted->spec() + "\" waits for an artefact");
    }
    return codec->missing_artifact().empty() ? codec : wanted;
  }
  std::string allowed;
  for (const auto& codec : codecs_) allowed += (allowed.empty() ? "" : "; ") + codec->spec();
  return invalid_argument("codec \"" + wanted->spec() +
                          "\" is not allowed here; allowed are: " + allowed);
}

std::vector<std::string> CodecSet::specs() const {
  std::vector<std::string> specs;
  for (const auto& codec : codecs_) specs.push_back(codec->spec());
  return specs;
}

std::vector<std::string> CodecSet::missing_artifacts() const {
  std::vector<std::string> digests;
  for (const auto& codec : codecs_) {
    const std::string digest = codec->missing_artifact();
    if (!digest.empty() && find_artifact(digest) == nullptr) digests.push_back(digest);
  }
  return digests;
}

}  // namespace kvferry::codec
