#include "codec/codec_set.h"

#include <algorithm>
#include <utility>

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
  if (spec.empty()) return codecs_.front();
  KVF_ASSIGN_OR_RETURN(const auto wanted, make_codec(spec));
  for (const auto& codec : codecs_) {
    if (codec->id() == wanted->id()) return codec;
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

}  // namespace kvferry::codec
