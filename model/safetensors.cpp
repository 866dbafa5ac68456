#include "model/safetensors.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cstring>
#include <optional>

#include "kernels/dense_kernels.h"
#include "model/strict_json.h"

namespace kvferry::model {
namespace {

namespace json = boost::json;

constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;  // the limit of the reference reader
constexpr std::size_t kMaxDimensions = 8;

struct DtypeInfo {
  std::string_view name;
  Dtype dtype;
  std::uint64_t bytes;
};
constexpr DtypeInfo kDtypes[] = {
    {"BF16", Dtype::kBf16, 2},  {"F16", Dtype::kF16, 2},       {"F32", Dtype::kF32, 4},
    {"F64", Dtype::kOther, 8},  {"I64", Dtype::kOther, 8},     {"U64", Dtype::kOther, 8},
    {"I32", Dtype::kOther, 4},  {"U32", Dtype::kOther, 4},     {"I16", Dtype::kOther, 2},
    {"U16", Dtype::kOther, 2},  {"I8", Dtype::kOther, 1},      {"U8", Dtype::kOther, 1},
    {"BOOL", Dtype::kOther, 1}, {"F8_E4M3", Dtype::kOther, 1}, {"F8_E5M2", Dtype::kOther, 1}};

const DtypeInfo* find_dtype(std::string_view name) {
  for (const auto& info : kDtypes) {
    if (info.name == name) return &info;
  }
  return nullptr;
}

std::optional<std::uint64_t> as_u64(const json::value& value) {
  if (value.is_uint64()) return value.get_uint64();
  if (value.is_int64() && value.get_int64() >= 0) {
    return static_cast<std::uint64_t>(value.get_int64());
  }
  return std::nullopt;
}

// Reads one entry; the data is the file's bytes [data_begin, file_bytes).
Result<SafetensorsEntry> read_entry(std::string_view name, const json::value& value,
                                    std::uint64_t data_begin, std::uint64_t file_bytes) {
  const std::uint64_t data_bytes = file_bytes - data_begin;
  const std::string where = "tensor '" + std::string(name) + "': ";
  if (!value.is_object()) return invalid_argument(where + "its header entry is not an object");
  const json::object& object = value.get_object();
  const json::value* dtype = object.if_contains("dtype");
  const json::value* shape = object.if_contains("shape");
  const json::value* offsets = object.if_contains("data_offsets");
  if (dtype == nullptr || !dtype->is_string() || shape == nullptr || !shape->is_array() ||
      offsets == nullptr || !offsets->is_array() || offsets->get_array().size() != 2) {
    return invalid_argument(where + "dtype, shape or data_offsets is missing or of a wrong type");
  }
  SafetensorsEntry entry;
  entry.name = name;
  entry.dtype_name = std::string(dtype->get_string());
  const DtypeInfo* info = find_dtype(entry.dtype_name);
  if (info == nullptr) return invalid_argument(where + "unknown dtype " + entry.dtype_name);
  entry.dtype = info->dtype;
  if (shape->get_array().size() > kMaxDimensions) {
    return invalid_argument(where + "more than 8 dimensions");
  }
  std::uint64_t bytes = info->bytes;
  for (const auto& dimension : shape->get_array()) {
    const auto n = as_u64(dimension);
    if (!n) return invalid_argument(where + "its shape has something other than whole numbers");
    if (__builtin_mul_overflow(bytes, *n, &bytes)) {
      return invalid_argument(where + "its shape overflows 64 bits");
    }
    entry.shape.push_back(*n);
  }
  const auto begin = as_u64(offsets->get_array()[0]), end = as_u64(offsets->get_array()[1]);
  if (!begin || !end || *begin > *end || *end > data_bytes) {
    return invalid_argument(where + "its data_offsets lie outside the file's " +
                            std::to_string(data_bytes) + " data bytes");
  }
  if (*end - *begin != bytes) {
    return invalid_argument(where + "data_offsets span " + std::to_string(*end - *begin) +
                            " bytes, but shape and dtype need " + std::to_string(bytes));
  }
  entry.begin = data_begin + *begin;
  entry.bytes = bytes;
  return entry;
}

Status check_metadata(const json::value& metadata) {
  bool strings = metadata.is_object();
  if (strings) {
    for (const auto& [key, value] : metadata.get_object()) strings = strings && value.is_string();
  }
  return strings ? ok_status() : invalid_argument("__metadata__ does not map strings to strings");
}

// Exact for every finite f16: subnormals included.
float f32_from_f16(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
  const std::uint32_t exponent = (half >> 10) & 31u, mantissa = half & 0x3ffu;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  const std::uint32_t wide = exponent == 31 ? 255u : exponent + 112u;
  const std::uint32_t bits = sign | (wide << 23) | (mantissa << 13);
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

template <class T, class Convert>
void convert_to_f32(const std::byte* in, std::size_t count, float* out, Convert convert) {
  for (std::size_t i = 0; i < count; ++i) {
    T value;
    std::memcpy(&value, in + i * sizeof(T), sizeof(T));
    out[i] = convert(value);
  }
}

void to_f32(Dtype dtype, const std::byte* in, std::size_t count, float* out) {
  if (dtype == Dtype::kF32) {
    std::memcpy(out, in, count * 4);
  } else if (dtype == Dtype::kBf16) {
    convert_to_f32<std::uint16_t>(in, count, out, kernels::f32_from_bf16);
  } else {
    convert_to_f32<std::uint16_t>(in, count, out, f32_from_f16);
  }
}

}  // namespace

Safetensors::~Safetensors() {
  if (fd_ >= 0) ::close(fd_);
}

Result<std::unique_ptr<Safetensors>> Safetensors::open(const std::filesystem::path& path) {
  std::unique_ptr<Safetensors> file(new Safetensors);
  KVF_RETURN_IF_ERROR(file->open_file(path));
  Status status = file->parse();
  if (!status.ok()) {
    return Status(status.code(), path.string() + ": " + status.message() +
                                     "; the file is damaged or was cut short: copy it again");
  }
  return file;
}

Status Safetensors::open_file(const std::filesystem::path& path) {
  path_ = path.string();
  fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd_ < 0) return not_found("cannot open " + path_ + ": " + std::strerror(errno));
  struct stat info {};
  if (fstat(fd_, &info) != 0 || !S_ISREG(info.st_mode)) {
    return invalid_argument(path_ + " is not a safetensors file: it is no regular file");
  }
  if (info.st_size < 8) {
    return invalid_argument(path_ + " is not a safetensors file: under 8 bytes long");
  }
  file_bytes_ = static_cast<std::uint64_t>(info.st_size);
  return ok_status();
}

void Safetensors::read(std::uint64_t begin, std::size_t bytes, std::byte* out) const {
  while (bytes > 0) {
    const ssize_t n = pread(fd_, out, bytes, static_cast<off_t>(begin));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      failed_ = true;
      return;
    }
    out += n;
    begin += static_cast<std::uint64_t>(n);
    bytes -= static_cast<std::size_t>(n);
  }
}

Status Safetensors::read_status() const {
  if (!failed_) return ok_status();
  return data_loss("cannot read all of " + path_ +
                   ": it was cut short since it was opened, or the disk failed");
}

Status Safetensors::parse() {
  std::uint64_t header_bytes = 0;
  read(0, 8, reinterpret_cast<std::byte*>(&header_bytes));
  if (header_bytes > kMaxHeaderBytes || header_bytes > file_bytes_ - 8) {
    return invalid_argument("the header says it is " + std::to_string(header_bytes) +
                            " bytes long, in a file of " + std::to_string(file_bytes_));
  }
  std::string text(header_bytes, '\0');
  read(8, text.size(), reinterpret_cast<std::byte*>(text.data()));
  KVF_RETURN_IF_ERROR(read_status());
  KVF_ASSIGN_OR_RETURN(const json::object header, parse_strict_object(text, "the header"));
  const std::uint64_t data_begin = 8 + header_bytes;
  for (const auto& [name, value] : header) {
    if (name == "__metadata__") {
      KVF_RETURN_IF_ERROR(check_metadata(value));
      continue;
    }
    KVF_ASSIGN_OR_RETURN(auto entry,
                         read_entry(std::string_view(name), value, data_begin, file_bytes_));
    tensors_.push_back(std::move(entry));
  }
  std::stable_sort(tensors_.begin(), tensors_.end(), [](const auto& a, const auto& b) {
    return std::pair(a.begin, a.bytes) < std::pair(b.begin, b.bytes);
  });
  for (std::size_t i = 0; i < tensors_.size(); ++i) by_name_[tensors_[i].name] = i;
  return check_layout(data_begin);
}

Status Safetensors::check_layout(std::uint64_t data_begin) const {
  if (tensors_.empty()) return invalid_argument("it holds no tensors");
  std::uint64_t end = data_begin;
  for (const auto& tensor : tensors_) {
    if (tensor.begin != end) {
      return invalid_argument(
          "tensor '" + tensor.name + "': its data " +
          (tensor.begin < end ? "overlaps another tensor's" : "comes behind bytes of no tensor"));
    }
    end += tensor.bytes;
  }
  if (end != file_bytes_) return invalid_argument("bytes behind the last tensor belong to none");
  return ok_status();
}

Result<TensorRef> Safetensors::find(const std::string& name, std::uint32_t rows,
                                    std::uint32_t columns) const {
  const auto found = by_name_.find(name);
  if (found == by_name_.end()) {
    return not_found("tensor '" + name +
                     "' is missing; is the checkpoint complete, and "
                     "config.json the one that belongs to it?");
  }
  const auto& entry = tensors_[found->second];
  std::vector<std::uint64_t> wanted;
  if (rows != 0) wanted.push_back(rows);
  wanted.push_back(columns);
  const auto shape_text = [](const std::vector<std::uint64_t>& shape) {
    std::string text = "[";
    for (auto n : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(n);
    return text + "]";
  };
  if (entry.shape != wanted) {
    return invalid_argument("tensor '" + name + "': its shape is " + shape_text(entry.shape) +
                            ", but config.json asks for " + shape_text(wanted));
  }
  if (entry.dtype == Dtype::kOther) {
    return unsupported("tensor '" + name + "': dtype " + entry.dtype_name +
                       " is not supported as a weight (BF16, F16 and F32 are); convert it");
  }
  return TensorRef{found->second, rows == 0 ? 1 : rows, columns};
}

void Safetensors::read_rows(const TensorRef& tensor, std::uint32_t row0, std::uint32_t count,
                            Compute type, std::byte* out) const {
  const auto& entry = tensors_[tensor.index];
  const std::size_t bytes = entry.dtype == Dtype::kF32 ? 4 : 2;
  std::uint64_t from = entry.begin + std::uint64_t{row0} * tensor.columns * bytes;
  const std::size_t values = std::size_t{count} * tensor.columns;
  const bool as_is =
      (type == Compute::kBf16) == (entry.dtype == Dtype::kBf16) && entry.dtype != Dtype::kF16;
  if (as_is) return read(from, values * bytes, out);
  constexpr std::size_t kPiece = 16 * 1024;  // converted through f32 in pieces that stay in L2
  std::vector<std::byte> raw(kPiece * bytes);
  std::vector<float> piece(kPiece);
  for (std::size_t i = 0; i < values; i += kPiece) {
    const std::size_t n = std::min(kPiece, values - i);
    read(from, n * bytes, raw.data());
    from += n * bytes;
    to_f32(entry.dtype, raw.data(), n, piece.data());
    if (type == Compute::kF32) {
      std::memcpy(out + i * 4, piece.data(), n * 4);
    } else {
      for (std::size_t j = 0; j < n; ++j) {
        const std::uint16_t half = kernels::bf16_from_f32(piece[j]);
        std::memcpy(out + (i + j) * 2, &half, 2);
      }
    }
  }
}

}  // namespace kvferry::model
