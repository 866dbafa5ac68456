#include <utility>

#include "cluster/control.h"

namespace kvferry::cluster {
namespace {

class StaticMembership : public Membership {
 public:
  explicit StaticMembership(std::vector<Member> members) : members_(std::move(members)) {}
  void watch(std::function<void(const std::vector<Member>&)> changed) override {
    changed(members_);
  }

 private:
  std::vector<Member> members_;
};

}  // namespace

std::unique_ptr<Membership> static_membership(std::vector<Member> members) {
  return std::make_unique<StaticMembership>(std::move(members));
}

}  // namespace kvferry::cluster
