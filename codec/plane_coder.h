// The bytes behind a segment's header in fewer bytes, without loss: each plane is entropy-coded
// with what the same plane holds in all KV heads, where that saves something, and stays as it is
// where not. docs/codecs.md, "The wire form", has the format. For the stages `rans` and `lossless`.
//
// Codes: the bytes that hold them are the symbols, under the product of the codes' own frequencies
// (8 / bits numbers in 2^bits) or under frequencies of their own, whichever is less. bf16 (values,
// scales, minima): the exponents, of 8 bits, are symbols, and signs with mantissas are others.
//
// Thread contract: pure functions; about 48 KiB of stack, no other memory.
#pragma once

#include <cstddef>
#include <span>

#include "base/status.h"
#include "codec/stage.h"

namespace kvferry::codec {

// What wrap_planes may code; the rest stays as it is. Unwrapping need not be told.
enum class Coded { kExponents, kEverything };

// planes: of one KV head, in order; body: those of all heads, so a multiple of their bytes. Writes
// to out, at most out.size() bytes, and returns how many; 0 when they do not fit. Equal bytes on
// every instruction set.
std::size_t wrap_planes(Coded coded, std::span<const Plane> planes, std::span<const std::byte> body,
                        std::span<std::byte> out);

// Undoes wrap_planes. kDataLoss for what it never writes, as far as that can be told: all of the
// stream is taken and its coder is back where it began. body is then unspecified.
Status unwrap_planes(std::span<const Plane> planes, std::span<const std::byte> wire,
                     std::span<std::byte> body);

}  // namespace kvferry::codec
