// The makers of all stages: one a file, entered in registry.cpp.
// Thread contract: pure functions.
#pragma once

#include <memory>

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
Result<Stage> make_dequantize_stage(const SpecStage& spec);

// f32 as computed; no spec names it.
StoragePtr make_exact_storage();

}  // namespace kvferry::codec
