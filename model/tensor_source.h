// Where a model's weights come from: a checkpoint or a seeded generator.
//
// Thread contract: read_rows from any thread at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "model/model.h"

namespace kvferry::model {

// A handle that is valid as long as its source.
struct TensorRef {
  std::size_t index = 0;
  std::uint32_t rows = 0, columns = 0;  // a vector is one row
};

class TensorSource {
 public:
  virtual ~TensorSource() = default;
  // kNotFound or kInvalidArgument, naming the tensor, unless it is there with that shape: [columns]
  // where rows == 0, else [rows, columns].
  virtual Result<TensorRef> find(const std::string& name, std::uint32_t rows,
                                 std::uint32_t columns) const = 0;
  // The names of all tensors, or none where any name can be found (a generator).
  virtual std::vector<std::string> names() const = 0;
  // Writes rows [row0, row0 + count) in `type` (kBf16: uint16_t, rounded to nearest even; kF32).
  // Where a read fails the rows hold anything, and read_status() says so from then on.
  virtual void read_rows(const TensorRef& tensor, std::uint32_t row0, std::uint32_t count,
                         Compute type, std::byte* out) const = 0;
  // OK, or why some read_rows failed.
  virtual Status read_status() const = 0;
};

}  // namespace kvferry::model
