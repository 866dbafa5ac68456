// kivi(k=2,v=2,group=32,residual=128): KIVI's quantization as hack's channel layout has it, K by
// channel and V by token. KIVI keeps the last `residual` tokens in 16 bits, a window that slides
// with every token; here they are the open tile, on the absolute grid (docs/codecs.md).
#include <string>

#include "codec/stages.h"

namespace kvferry::codec {

Result<std::string> expand_kivi(const SpecStage& spec) {
  const SpecArguments arguments(spec);
  KVF_RETURN_IF_ERROR(arguments.check_keys({"k", "v", "group", "residual"}));
  KVF_ASSIGN_OR_RETURN(const std::uint32_t k, arguments.integer("k", kCodeBits, 2));
  KVF_ASSIGN_OR_RETURN(const std::uint32_t v, arguments.integer("v", kCodeBits, 2));
  KVF_ASSIGN_OR_RETURN(const std::uint32_t group, arguments.integer("group", {32, 64, 128}, 32));
  KVF_ASSIGN_OR_RETURN(const std::uint32_t residual, arguments.integer("residual", {64, 128}, 128));
  if (residual < group) {
    return spec_error(arguments.position("residual"),
                      "a residual of at least one group, here " + std::to_string(group));
  }
  return "hack(k=" + std::to_string(k) + ",v=" + std::to_string(v) +
         ",range=minmax,group=" + std::to_string(group) + ",tile=" + std::to_string(residual) +
         ",first_bits=none)";
}

}  // namespace kvferry::codec
