#include "gateway/text_thread.h"

#include <boost/asio/post.hpp>
#include <deque>
#include <mutex>
#include <utility>

namespace kvferry::gateway {

namespace asio = boost::asio;

struct TextThread::Done {
  std::mutex mutex;
  std::deque<Rest> rests;

  void add(Rest rest) {
    const std::lock_guard lock(mutex);
    rests.push_back(std::move(rest));
  }
  Rest next() {
    const std::lock_guard lock(mutex);
    Rest rest = std::move(rests.front());
    rests.pop_front();
    return rest;
  }
};

TextThread::TextThread(asio::io_context& io) : io_(io), done_(std::make_shared<Done>()) {}

TextThread::~TextThread() {
  pool_.stop();
  pool_.join();
}

void TextThread::run(std::function<Rest()> work) {
  // The reactor may outlive this object: it gets a message without contents.
  const std::weak_ptr<Done> weak = done_;
  asio::post(pool_, [&io = io_, done = done_.get(), weak, work = std::move(work)] {
    done->add(work());
    asio::post(io, [weak] {
      if (const auto alive = weak.lock()) alive->next()();
    });
  });
}

}  // namespace kvferry::gateway
