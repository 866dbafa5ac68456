// A model of NCCL between processes of one test: communicators of two ranks that join by their id,
// operations that finish once both sides have posted them. It can be slow, fail or hang where a
// test says so.
//
// Thread contract: one thread.
#pragma once

#include <cstring>
#include <map>
#include <set>
#include <vector>

#include "transport/nccl_api.h"

namespace kvferry::transport::testing {

// What joins the two sides.
class FakeNcclFabric {
 public:
  struct Pair {
    bool joined[2] = {false, false};
    std::vector<std::vector<std::byte>> sent;
    std::vector<std::size_t> received;  // lengths
  };
  std::map<std::uint64_t, Pair> pairs;  // by the id
  std::uint64_t next = 1;
  bool hold = false;            // nothing finishes
  bool hang_aborts = false;     // they never end
  std::size_t most_posted = 0;  // operations under way at one time
};

class FakeNccl : public NcclApi {
 public:
  explicit FakeNccl(FakeNcclFabric& fabric) : fabric_(fabric) {}

  Status fail_init, fail_ready, fail_send, fail_receive, fail_finished;  // where not OK
  std::size_t aborts = 0;
  std::size_t operations() const { return operations_.size(); }

  Result<Id> unique_id() override {
    Id id{};
    const std::uint64_t key = fabric_.next++;
    std::memcpy(id.data(), &key, sizeof(key));
    fabric_.pairs[key];
    return id;
  }
  Result<Comm> init(const Id& id, int rank) override {
    KVF_RETURN_IF_ERROR(fail_init);
    std::uint64_t key = 0;
    std::memcpy(&key, id.data(), sizeof(key));
    if (!fabric_.pairs.contains(key)) return invalid_argument("nobody has this id");
    fabric_.pairs[key].joined[rank] = true;
    const Comm comm = fabric_.next++;
    comms_[comm] = {key, rank};
    return comm;
  }
  Result<bool> ready(Comm comm) override {
    KVF_RETURN_IF_ERROR(fail_ready);
    const auto& pair = fabric_.pairs.at(comms_.at(comm).key);
    return !fabric_.hold && pair.joined[0] && pair.joined[1];
  }
  Result<Operation> send(Comm comm, std::span<const std::byte> payload) override {
    KVF_RETURN_IF_ERROR(fail_send);
    auto& sent = fabric_.pairs.at(comms_.at(comm).key).sent;
    sent.emplace_back(payload.begin(), payload.end());
    return add(comm, sent.size() - 1);
  }
  Result<Operation> receive(Comm comm, std::size_t bytes) override {
    KVF_RETURN_IF_ERROR(fail_receive);
    auto& received = fabric_.pairs.at(comms_.at(comm).key).received;
    received.push_back(bytes);
    return add(comm, received.size() - 1);
  }
  Result<bool> finished(Comm comm, Operation operation) override {
    KVF_RETURN_IF_ERROR(fail_finished);
    const auto& pair = fabric_.pairs.at(comms_.at(comm).key);
    const std::size_t at = operations_.at(operation).at;
    if (fabric_.hold || at >= pair.sent.size() || at >= pair.received.size()) return false;
    // What a GPU would do about it is undefined.
    if (pair.sent[at].size() != pair.received[at]) return internal_error("lengths differ");
    return true;
  }
  void take(Operation operation, std::span<std::byte> to) override {
    const Posted posted = operations_.at(operation);
    const auto& from = fabric_.pairs.at(comms_.at(posted.comm).key).sent[posted.at];
    std::memcpy(to.data(), from.data(), to.size());
    operations_.erase(operation);
  }
  void forget(Operation operation) override { operations_.erase(operation); }
  void abort(Comm comm) override {
    ++aborts;
    std::erase_if(operations_, [comm](const auto& entry) { return entry.second.comm == comm; });
    comms_.erase(comm);
  }
  bool aborted(Comm) override { return !fabric_.hang_aborts; }

 private:
  struct Joined {
    std::uint64_t key;
    int rank;
  };
  struct Posted {
    Comm comm;
    std::size_t at;  // of the operations of its side
  };
  Operation add(Comm comm, std::size_t at) {
    const Operation operation = fabric_.next++;
    operations_[operation] = {comm, at};
    fabric_.most_posted = std::max(fabric_.most_posted, operations_.size());
    return operation;
  }

  FakeNcclFabric& fabric_;
  std::map<Comm, Joined> comms_;
  std::map<Operation, Posted> operations_;
};

}  // namespace kvferry::transport::testing
