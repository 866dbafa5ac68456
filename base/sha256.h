// SHA-256 (FIPS 180-4, by OpenSSL), for what adversaries may choose; base/hash.h is faster and is
// not for them. Thread contract: pure functions.
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace kvferry {

using Sha256 = std::array<std::byte, 32>;

Sha256 sha256(std::string_view text);

// In a time that does not depend on where they differ.
bool equal_in_constant_time(const Sha256& a, const Sha256& b);

std::string to_hex(const Sha256& hash);  // 64 lower-case digits
// Nothing unless `text` is 64 hexadecimal digits, of either case.
std::optional<Sha256> sha256_of_hex(std::string_view text);

}  // namespace kvferry
