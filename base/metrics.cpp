#include "base/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <cstdlib>
#include <mutex>
#include <utility>

#include "base/log.h"

namespace kvferry {
namespace {

class CounterOver : public Counter {
 public:
  explicit CounterOver(prometheus::Counter& metric) : metric_(metric) {}
  void add(double amount) override { metric_.Increment(amount); }
  double value() const override { return metric_.Value(); }

 private:
  prometheus::Counter& metric_;
};

class GaugeOver : public Gauge {
 public:
  explicit GaugeOver(prometheus::Gauge& metric) : metric_(metric) {}
  void set(double value) override { metric_.Set(value); }
  void add(double amount) override { metric_.Increment(amount); }
  double value() const override { return metric_.Value(); }

 private:
  prometheus::Gauge& metric_;
};

class HistogramOver : public Histogram {
 public:
  explicit HistogramOver(prometheus::Histogram& metric) : metric_(metric) {}
  void observe(double value) override { metric_.Observe(value); }

 private:
  prometheus::Histogram& metric_;
};

enum class Kind { kCounter, kGauge, kHistogram };

}  // namespace

const std::vector<double> Metrics::kSecondsBuckets = {
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60};

struct Metrics::Impl {
  using Key = std::pair<std::string, Labels>;
  prometheus::Registry registry;
  std::mutex mutex;
  std::map<std::string, std::pair<Kind, std::string>> families;  // name -> kind and help
  std::map<Key, std::unique_ptr<Counter>> counters;
  std::map<Key, std::unique_ptr<Gauge>> gauges;
  std::map<Key, std::unique_ptr<Histogram>> histograms;

  void declare(const std::string& name, Kind kind, const std::string& help) {
    const auto [found, made] = families.try_emplace(name, kind, help);
    if (made || found->second == std::pair(kind, help)) return;
    log_error("metrics", "metric " + name + " was made before with another kind or help text");
    std::abort();
  }
};

Metrics::Metrics() : impl_(std::make_unique<Impl>()) {}
Metrics::~Metrics() = default;

Counter& Metrics::counter(const std::string& name, const std::string& help, const Labels& labels) {
  std::lock_guard lock(impl_->mutex);
  impl_->declare(name, Kind::kCounter, help);
  auto& slot = impl_->counters[{name, labels}];
  if (!slot) {
    auto& family = prometheus::BuildCounter().Name(name).Help(help).Register(impl_->registry);
    slot = std::make_unique<CounterOver>(family.Add(labels));
  }
  return *slot;
}

Gauge& Metrics::gauge(const std::string& name, const std::string& help, const Labels& labels) {
  std::lock_guard lock(impl_->mutex);
  impl_->declare(name, Kind::kGauge, help);
  auto& slot = impl_->gauges[{name, labels}];
  if (!slot) {
    auto& family = prometheus::BuildGauge().Name(name).Help(help).Register(impl_->registry);
    slot = std::make_unique<GaugeOver>(family.Add(labels));
  }
  return *slot;
}

Histogram& Metrics::histogram(const std::string& name, const std::string& help,
                              const Labels& labels, const std::vector<double>& buckets) {
  std::lock_guard lock(impl_->mutex);
  impl_->declare(name, Kind::kHistogram, help);
  auto& slot = impl_->histograms[{name, labels}];
  if (!slot) {
    auto& family = prometheus::BuildHistogram().Name(name).Help(help).Register(impl_->registry);
    slot = std::make_unique<HistogramOver>(
        family.Add(labels, buckets.empty() ? kSecondsBuckets : buckets));
  }
  return *slot;
}

std::string Metrics::serialize() const {
  return prometheus::TextSerializer().Serialize(impl_->registry.Collect());
}

}  // namespace kvferry
