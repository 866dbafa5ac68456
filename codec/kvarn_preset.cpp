// kvarn(k=4,v=2,group=128): KVarN, attended to on its codes. Hadamard, factors of rows and columns
// over tiles of 128 tokens, min-max codes, and the first tile in 16 bits.
#include <string>

#include "codec/stages.h"

namespace kvferry::codec {

Result<std::string> expand_kvarn(const SpecStage& spec) {
  const SpecArguments arguments(spec);
  KVF_RETURN_IF_ERROR(arguments.check_keys({"k", "v", "group"}));
  KVF_ASSIGN_OR_RETURN(const std::uint32_t k, arguments.integer("k", kCodeBits, 4));
  KVF_ASSIGN_OR_RETURN(const std::uint32_t v, arguments.integer("v", kCodeBits, 2));
  KVF_ASSIGN_OR_RETURN(const std::uint32_t group, arguments.integer("group", {32, 64, 128}, 128));
  return "hadamard | hack(k=" + std::to_string(k) + ",v=" + std::to_string(v) +
         ",range=minmax,group=" + std::to_string(group) + ",tile=128,balance=dual,first_bits=16)";
}

}  // namespace kvferry::codec
