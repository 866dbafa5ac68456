// The few calls of NCCL that its transport makes, as an interface: the library behind it where
// there are GPUs (nccl_library.h), a model of it in tests.
//
// A communicator joins two processes, rank 0 which sends and rank 1 which receives. Calls return at
// once. Operations of a communicator run in the order in which they were posted, and the two sides
// must post the same lengths in the same order; what has no counterpart never finishes.
//
// Ownership: payloads are copied, by send() on their way out and by take() on their way in, so
// whoever calls may free its memory at any time. Thread contract: one thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/status.h"

namespace kvferry::transport {

class NcclApi {
 public:
  using Id = std::array<std::byte, 128>;  // ncclUniqueId
  using Comm = std::uint64_t;             // never used twice
  using Operation = std::uint64_t;

  virtual ~NcclApi() = default;
  virtual Result<Id> unique_id() = 0;
  // Begins to make a communicator; ready() says when it is there.
  virtual Result<Comm> init(const Id& id, int rank) = 0;
  virtual Result<bool> ready(Comm comm) = 0;

  // Of a communicator that is ready.
  virtual Result<Operation> send(Comm comm, std::span<const std::byte> payload) = 0;
  virtual Result<Operation> receive(Comm comm, std::size_t bytes) = 0;
  virtual Result<bool> finished(Comm comm, Operation operation) = 0;
  // Copies what a finished operation received, and forgets the operation.
  virtual void take(Operation operation, std::span<std::byte> to) = 0;
  virtual void forget(Operation operation) = 0;  // of a send that is finished

  // Begins to end a communicator, whatever its peer does, with its operations. NCCL may hang in it,
  // so aborted() says when it has ended. No other call may name it any more.
  virtual void abort(Comm comm) = 0;
  virtual bool aborted(Comm comm) = 0;
};

}  // namespace kvferry::transport
