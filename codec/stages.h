// The makers of all stages: one a file, entered in registry.cpp.
// Thread contract: pure functions.
#pragma once

#include <initializer_list>
#include <memory>
#include <string>

#include "codec/stage.h"

namespace kvferry::codec {

Result<Stage> make_raw_stage(const SpecStage& spec);
Result<Stage> make_fp8_stage(const SpecStage& spec);
Result<Stage> make_int8_stage(const SpecStage& spec);
Result<Stage> make_int_stage(const SpecStage& spec);
Result<Stage> make_hack_stage(const SpecStage& spec);
// hack with layout=paper, to which make_hack_stage hands over.
Result<Stage> make_paper_stage(const SpecStage& spec);
Result<Stage> make_hadamard_stage(const SpecStage& spec);
Result<Stage> make_mean_stage(const SpecStage& spec);
Result<Stage> make_dequantize_stage(const SpecStage& spec);
Result<Stage> make_rans_stage(const SpecStage& spec);
Result<Stage> make_lossless_stage(const SpecStage& spec);
Result<Stage> make_zstd_stage(const SpecStage& spec);
Result<Stage> make_profile_stage(const SpecStage& spec);

Result<std::string> expand_kivi(const SpecStage& spec);
Result<std::string> expand_kvarn(const SpecStage& spec);

// What "k" and "v" may be where they are bits of codes.
inline constexpr std::initializer_list<std::uint32_t> kCodeBits = {1, 2, 3, 4, 5, 6, 7, 8};

// f32 as computed; no spec names it.
StoragePtr make_exact_storage();

}  // namespace kvferry::codec
