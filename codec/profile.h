// What a profile file says: a storage for each layer (docs/codecs.md, "profile").
//
//   default: hack(k=4,v=2)                 # of layers that are not named
//   0: hack(k=8,v=8)
//   1-7: hack(k=4,v=4,range=search)
//   12: {nbits_key: 4, nbits_value: 2}     # as KVTuner's files have it: hack(k=4,v=2)
//
// Thread contract: immutable once parsed.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "codec/stage.h"

namespace kvferry::codec {

inline constexpr std::uint32_t kMaxProfileLayers = 4096;

struct Profile {
  CodecTraits traits;              // what holds for all layers
  StoragePtr otherwise;            // of layers that are not named; null: there are none
  std::vector<StoragePtr> layers;  // up to the last one named; null: not named

  // Null where the profile says nothing of the layer.
  const StorageStage* of(std::uint32_t layer) const {
    return layer < layers.size() && layers[layer] != nullptr ? layers[layer].get()
                                                             : otherwise.get();
  }
};

// kInvalidArgument with every error of the content, by line; `name` stands for the file in them.
Result<std::shared_ptr<const Profile>> parse_profile(const std::string& content,
                                                     const std::string& name);

}  // namespace kvferry::codec
