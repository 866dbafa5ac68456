// zstd: a segment's bytes as one frame of Zstandard (RFC 8878), the ordinary baseline for rans.
#include <zstd.h>

#include <memory>
#include <string>

#include "codec/stages.h"

namespace kvferry::codec {
namespace {

constexpr std::uint32_t kDefaultLevel = 1;

// The library's working memory, one a thread: making it costs more than a segment.
struct Compressor {
  ZSTD_CCtx* context = ZSTD_createCCtx();
  ~Compressor() { ZSTD_freeCCtx(context); }
};
struct Decompressor {
  ZSTD_DCtx* context = ZSTD_createDCtx();
  ~Decompressor() { ZSTD_freeDCtx(context); }
};

class ZstdStage final : public WireStage {
 public:
  explicit ZstdStage(std::uint32_t level) : level_(level) {}

  std::string text() const override {
    return level_ == kDefaultLevel ? "zstd" : "zstd(level=" + std::to_string(level_) + ")";
  }
  // An error is mostly that out is too short, and never more than that the body goes as it is.
  std::size_t wrap(std::span<const Plane>, std::span<const std::byte> body,
                   std::span<std::byte> out) const override {
    static thread_local Compressor compressor;
    if (compressor.context == nullptr) return 0;
    const std::size_t bytes = ZSTD_compressCCtx(compressor.context, out.data(), out.size(),
                                                body.data(), body.size(), static_cast<int>(level_));
    return ZSTD_isError(bytes) != 0 ? 0 : bytes;
  }
  Status unwrap(std::span<const Plane>, std::span<const std::byte> wire,
                std::span<std::byte> body) const override {
    static thread_local Decompressor decompressor;
    if (decompressor.context == nullptr) return resource_exhausted("no memory for zstd");
    const std::size_t bytes = ZSTD_decompressDCtx(decompressor.context, body.data(), body.size(),
                                                  wire.data(), wire.size());
    if (ZSTD_isError(bytes) != 0) {
      return data_loss(std::string("wrapped segment: zstd: ") + ZSTD_getErrorName(bytes));
    }
    if (bytes != body.size()) {
      return data_loss("wrapped segment: zstd gives " + std::to_string(bytes) + " bytes, not " +
                       std::to_string(body.size()));
    }
    return ok_status();
  }

 private:
  std::uint32_t level_;
};

}  // namespace

Result<Stage> make_zstd_stage(const SpecStage& spec) {
  const SpecArguments arguments(spec);
  KVF_RETURN_IF_ERROR(arguments.check_keys({"level"}));
  KVF_ASSIGN_OR_RETURN(
      const std::uint32_t level,
      arguments.integer("level",
                        {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19},
                        kDefaultLevel));
  return Stage(std::make_shared<ZstdStage>(level));
}

}  // namespace kvferry::codec
