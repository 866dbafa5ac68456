#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "codec/artifacts.h"
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

// A pipeline as it is put together, stage by stage.
class Composer {
 public:
  explicit Composer(SpecFiles files) : files_(files) {}

  Status add(const SpecStage& spec) {
    const StageEntry* entry = find_stage(spec.name);
    if (entry == nullptr) {
      return spec_error(spec.position,
                        "a stage, which are: " + stage_names() + "; not \"" + spec.name + "\"");
    }
    if (entry->kind == StageKind::kPreset) return add_preset(spec, *entry);
    KVF_RETURN_IF_ERROR(check_order(spec, entry->kind));
    if (entry->takes_file) {
      takes_file_ = true;
      KVF_RETURN_IF_ERROR(check_files(spec));
    }
    KVF_ASSIGN_OR_RETURN(Stage made, entry->make(spec));
    last_ = entry->kind;
    switch (entry->kind) {
      case StageKind::kDomain:
        return add_domain(spec, std::get<DomainPtr>(std::move(made)));
      case StageKind::kAdapter:
        return add_adapter(spec, std::get<Adapter>(std::move(made)));
      case StageKind::kStorage:
        storage_ = std::get<StoragePtr>(std::move(made));
        missing_ = {storage_->missing_artifact(),
                    spec.arguments.empty() ? spec.position : spec.arguments[0].value_position};
        // The adapter that stands next to the storage comes first.
        for (auto adapter = adapters_.rbegin(); adapter != adapters_.rend(); ++adapter) {
          KVF_ASSIGN_OR_RETURN(storage_, (*adapter)(std::move(storage_)));
        }
        break;
      default:
        wire_ = std::get<WirePtr>(std::move(made));
    }
    return ok_status();
  }

  // The storage of a spec that has nothing else; a profile's layers are such.
  Result<StoragePtr> finish_storage(std::string_view spec) && {
    if (storage_ == nullptr || !domain_.empty() || wire_ != nullptr || takes_file_) {
      return invalid_argument("\"" + std::string(spec) +
                              "\" is not one storage stage such as hack(k=4,v=2), with nothing but "
                              "adapters before it");
    }
    return std::move(storage_);
  }

  // end: the position behind the spec.
  Result<std::shared_ptr<const PipelineCodec>> finish(std::size_t end) {
    if (storage_ == nullptr) {
      return spec_error(end, "\"| raw\" or \"| hack(...)\": something must store the KV");
    }
    return std::shared_ptr<const PipelineCodec>(std::make_shared<PipelineCodec>(
        std::move(domain_), std::move(storage_), std::move(wire_), std::move(missing_)));
  }

 private:
  // The kinds are numbered in the order in which they may follow each other.
  Status check_order(const SpecStage& spec, StageKind kind) const {
    if (wire_ != nullptr) {
      return spec_error(spec.position, "the end: nothing comes behind " + wire_->text());
    }
    if (storage_ != nullptr && kind != StageKind::kWire) {
      return spec_error(spec.position, "the end or a wire stage behind " + storage_->text());
    }
    if (storage_ == nullptr && kind == StageKind::kWire) {
      return spec_error(spec.position, "a storage stage such as raw before " + spec.name);
    }
    // What a preset has of domain stages comes before the adapters that it is written behind.
    const bool of_preset = in_preset_ && kind == StageKind::kDomain;
    if (kind < last_ && !of_preset) {
      return spec_error(spec.position, "a stage of another kind: " + spec.name + " is a " +
                                           std::string(stage_kind_name(kind)) +
                                           " stage, which come before " +
                                           std::string(stage_kind_name(last_)) + " stages");
    }
    return ok_status();
  }

  Status check_files(const SpecStage& spec) const {
    for (const SpecArgument& argument : spec.arguments) {
      if (files_ == SpecFiles::kRead || is_artifact_digest(argument.value)) continue;
      return spec_error(argument.value_position,
                        "a digest such as " + artifact_digest("") +
                            "; only an operator's configuration names files");
    }
    return ok_status();
  }

  Status add_domain(const SpecStage& spec, DomainPtr stage) {
    for (const auto& earlier : domain_) {
      if (earlier->text() == stage->text()) {
        return spec_error(spec.position, "another stage: " + spec.name + " is there already");
      }
    }
    domain_.push_back(std::move(stage));
    return ok_status();
  }

  Status add_adapter(const SpecStage& spec, Adapter adapter) {
    for (const std::string& earlier : adapter_names_) {
      if (earlier == spec.name) {
        return spec_error(spec.position, "another stage: " + spec.name + " is there already");
      }
    }
    adapter_names_.push_back(spec.name);
    adapters_.push_back(std::move(adapter));
    return ok_status();
  }

  // What the preset stands for, as if it were written in its place.
  Status add_preset(const SpecStage& spec, const StageEntry& entry) {
    KVF_ASSIGN_OR_RETURN(const std::string text, entry.expand(spec));
    KVF_ASSIGN_OR_RETURN(std::vector<SpecStage> stages, parse_spec(text));
    in_preset_ = true;
    for (SpecStage& stage : stages) {
      stage.position = spec.position;
      for (SpecArgument& argument : stage.arguments) {
        argument.position = argument.value_position = spec.position;
      }
      KVF_RETURN_IF_ERROR(add(stage));
    }
    in_preset_ = false;
    return ok_status();
  }

  SpecFiles files_;
  bool in_preset_ = false;   // what is added comes from one
  bool takes_file_ = false;  // has a stage that may name one
  std::vector<DomainPtr> domain_;
  std::vector<std::string> adapter_names_;
  std::vector<Adapter> adapters_;
  StoragePtr storage_;
  MissingArtifact missing_;
  WirePtr wire_;
  StageKind last_ = StageKind::kDomain;
};

}  // namespace

const std::vector<StageEntry>& list_stages() {
  const StageArgument group = {"group", "32|64|128", "64"};
  const auto bits = [](std::string_view key, std::string_view otherwise) {
    return StageArgument{key, "1..8", otherwise};
  };
  static const std::vector<StageEntry> stages = {
      {"hadamard",
       StageKind::kDomain,
       "Walsh-Hadamard transform of Q, K and V along head_dim",
       {{}},
       make_hadamard_stage},
      {"dequantize",
       StageKind::kAdapter,
       "attention on bf16 values made of the codes, not on the codes",
       {{}},
       make_dequantize_stage},
      {"mean",
       StageKind::kAdapter,
       "each channel's mean over the tile kept apart",
       {{"", {{"of", "kv|k|v", "kv"}}}},
       make_mean_stage},
      {"raw", StageKind::kStorage, "KV as bf16", {{}}, make_raw_stage},
      {"fp8",
       StageKind::kStorage,
       "8-bit floats",
       {{"", {{"", "e4m3|e5m2", "e4m3"}}}},
       make_fp8_stage},
      {"int8",
       StageKind::kStorage,
       "8-bit integers, a scale for each token",
       {{}},
       make_int8_stage},
      {"int",
       StageKind::kStorage,
       "integer codes of plain groups of channels",
       {{"", {bits("k", "2"), bits("v", "2"), group}}},
       make_int_stage},
      {"hack",
       StageKind::kStorage,
       "integer codes that attention works on as they are",
       {{"",
         {bits("k", "4"),
          bits("v", "2"),
          {"layout", "channel", "channel"},
          {"range", "minmax|search|lsq", "search up to 3 bits, minmax above"},
          group,
          {"tile", "64|128", "64, or 128 with group=128"},
          {"balance", "none|dual", "none"},
          {"first_bits", "8|16|none", "8"}}},
        {"layout=paper",
         {bits("k", "4"),
          bits("v", "2"),
          group,
          {"first_bits", "none|8", "none"},
          {"rounding", "nearest|stochastic", "nearest"},
          {"seed", "N", "0, with rounding=stochastic"},
          {"se", "on|off", "on"},
          {"rqe", "on|off", "on"}}}},
       make_hack_stage},
      {"profile",
       StageKind::kStorage,
       "another storage for each layer, out of a file",
       {{"", {{"", "FILE|DIGEST", ""}}}},
       make_profile_stage,
       nullptr,
       true},
      {"kivi",
       StageKind::kPreset,
       "KIVI: hack with groups of 32 and min-max, its residual as tiles",
       {{"",
         {bits("k", "2"),
          bits("v", "2"),
          {"group", "32|64|128", "32"},
          {"residual", "64|128", "128"}}}},
       nullptr,
       expand_kivi},
      {"kvarn",
       StageKind::kPreset,
       "KVarN: hadamard and hack with balance=dual and tiles of 128",
       {{"", {bits("k", "4"), bits("v", "2"), {"group", "32|64|128", "128"}}}},
       nullptr,
       expand_kvarn},
      {"rans",
       StageKind::kWire,
       "entropy coding of codes, scales and open tiles, for slow links",
       {{}},
       make_rans_stage},
      {"lossless",
       StageKind::kWire,
       "entropy coding of the exponents of bf16 values, for slow links",
       {{}},
       make_lossless_stage},
      {"zstd",
       StageKind::kWire,
       "Zstandard, for slow links",
       {{"", {{"level", "1..19", "1"}}}},
       make_zstd_stage},
  };
  return stages;
}

Result<StoragePtr> make_storage(std::string_view spec) {
  KVF_ASSIGN_OR_RETURN(const std::vector<SpecStage> parsed, parse_spec(spec));
  Composer composer(SpecFiles::kRefuse);
  for (const SpecStage& stage : parsed) KVF_RETURN_IF_ERROR(composer.add(stage));
  return std::move(composer).finish_storage(spec);
}

Result<std::shared_ptr<const PipelineCodec>> make_pipeline_codec(std::string_view spec,
                                                                 SpecFiles files) {
  KVF_ASSIGN_OR_RETURN(const std::vector<SpecStage> parsed, parse_spec(spec));
  Composer composer(files);
  for (const SpecStage& stage : parsed) KVF_RETURN_IF_ERROR(composer.add(stage));
  return composer.finish(spec.size() + 1);
}

Result<std::shared_ptr<const Codec>> make_codec(std::string_view spec, SpecFiles files) {
  KVF_ASSIGN_OR_RETURN(auto codec, make_pipeline_codec(spec, files));
  return std::shared_ptr<const Codec>(std::move(codec));
}

std::shared_ptr<const Codec> make_exact_codec() {
  return std::make_shared<PipelineCodec>(std::vector<DomainPtr>{}, make_exact_storage(), nullptr,
                                         MissingArtifact{});
}

}  // namespace kvferry::codec
