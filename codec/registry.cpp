#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "codec/codec.h"
#include "codec/pipeline_codec.h"
#include "codec/stages.h"

namespace kvferry::codec {
namespace {

const StageEntry* find_stage(std::string_view name) {
  for (const StageEntry& entry : list_stages()) {
    if (entry.name == name) return &entry;
  }
  return nullptr;
}

std::string stage_names() {
  std::string names;
  for (const StageEntry& entry : list_stages()) {
    names += (names.empty() ? "" : ", ") + std::string(entry.name);
  }
  return names;
}

}  // namespace

const std::vector<StageEntry>& list_stages() {
  static const std::vector<StageEntry> stages = {
      {"raw", "raw", "KV as bf16", make_raw_stage},
      {"hadamard", "hadamard", "Walsh-Hadamard transform of Q, K and V along head_dim",
       make_hadamard_stage},
      {"hack", "hack(k=1..8,v=1..8[,range=minmax|search|lsq][,first_bits=8])",
       "integer codes that attention works on as they are", make_hack_stage},
  };
  return stages;
}

Result<std::shared_ptr<const PipelineCodec>> make_pipeline_codec(std::string_view spec) {
  KVF_ASSIGN_OR_RETURN(const std::vector<SpecStage> parsed, parse_spec(spec));
  std::vector<std::shared_ptr<const DomainStage>> domain;
  std::shared_ptr<const StorageStage> storage;
  for (const SpecStage& stage : parsed) {
    const StageEntry* entry = find_stage(stage.name);
    if (entry == nullptr) {
      return spec_error(stage.position,
                        "a stage, which are: " + stage_names() + "; not \"" + stage.name + "\"");
    }
    if (storage != nullptr) {
      return spec_error(stage.position, "the end: nothing comes behind " + storage->text());
    }
    KVF_ASSIGN_OR_RETURN(Stage made, entry->make(stage));
    if (made.storage != nullptr) {
      storage = std::move(made.storage);
      continue;
    }
    for (const auto& earlier : domain) {
      if (earlier->text() == made.domain->text()) {
        return spec_error(stage.position, "another stage: " + stage.name + " is there already");
      }
    }
    domain.push_back(std::move(made.domain));
  }
  if (storage == nullptr) {
    return spec_error(spec.size() + 1, "\"| raw\" or \"| hack(...)\": something must store the KV");
  }
  return std::shared_ptr<const PipelineCodec>(
      std::make_shared<PipelineCodec>(std::move(domain), std::move(storage)));
}

Result<std::shared_ptr<const Codec>> make_codec(std::string_view spec) {
  KVF_ASSIGN_OR_RETURN(auto codec, make_pipeline_codec(spec));
  return std::shared_ptr<const Codec>(std::move(codec));
}

std::shared_ptr<const Codec> make_exact_codec() {
  return std::make_shared<PipelineCodec>(std::vector<std::shared_ptr<const DomainStage>>{},
                                         make_exact_storage());
}

}  // namespace kvferry::codec
