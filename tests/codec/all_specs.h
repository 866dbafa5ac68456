// The specs that tests and fuzz targets hold to the contract of codec/codec.h: at least one of
// every stage and of every layout of bytes. A new one is a line here.
//
// Thread contract: constants.
#pragma once

#include <string>
#include <string_view>

#include "codec/artifacts.h"

namespace kvferry::codec {

// What the profile below says, put where codecs look for it before any test asks.
inline constexpr std::string_view kProfile =
    "default: hack(k=3,v=2)\n0: hack(k=8,v=4)\n1: mean | int(k=4,v=2)\n";
inline const bool kProfileIsHere = add_artifact(std::string(kProfile)).ok();

inline constexpr const char* kAllSpecs[] = {
    "raw",
    "hadamard | raw",
    "hack(k=2,v=2)",
    "hadamard | hack(k=4,v=2)",
    "hack(k=8,v=8)",
    "hack(k=1,v=7)",
    "hack(k=3,v=5,range=minmax)",
    "hack(k=6,v=4,range=lsq)",
    "hack(k=2,v=2,group=32)",
    "hack(k=4,v=3,first_bits=none)",
    "hack(k=3,v=2,first_bits=16,balance=dual)",
    "hadamard | hack(k=2,v=2,group=128,balance=dual)",
    "dequantize | hack(k=2,v=2)",
    "hadamard | dequantize | hack(k=4,v=2,group=128)",
    "mean | int(k=2,v=2)",
    "mean | hack(k=2,v=2,group=128)",
    "hadamard | mean(of=v) | hack(k=4,v=2)",
    "dequantize | mean(of=k) | hack(k=2,v=2,layout=paper)",
    "mean | dequantize | hack(k=3,v=2,first_bits=16)",
    "fp8(e4m3)",
    "hadamard | fp8(e5m2)",
    "kivi(k=2,v=2)",
    "kvarn(k=4,v=2)",
    "int8",
    "int(k=2,v=2)",
    "int(k=5,v=3,group=32)",
    "hack(k=2,v=2,layout=paper)",
    "hack(k=4,v=2,layout=paper,group=32,se=off)",
    "hack(k=3,v=2,layout=paper,group=128,rounding=stochastic,seed=7)",
    "hack(k=2,v=4,layout=paper,rqe=off)",
    "hadamard | hack(k=2,v=2) | rans",
    "hack(k=3,v=2,group=128,balance=dual) | rans",
    "hack(k=2,v=2,layout=paper) | rans",
    "raw | lossless",
    "hack(k=4,v=4) | zstd",
    "profile(sha256-91a098cc18eed9c9de0a9551b6321052)",
};

}  // namespace kvferry::codec
