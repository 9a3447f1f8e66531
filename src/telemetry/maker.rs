//! How a metric of the catalogue comes to be: its name, help and labels as they stand there, registered once. Which metrics
//! there are is said elsewhere.

use prometheus::core::Collector;
use prometheus::{
    Counter, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry,
};

use super::catalogue::{CATALOGUE, Kind, Spec};

/// Makes metrics from their catalogue entries and registers them.
pub(super) struct Maker {
    pub(super) registry: Registry,
}

impl Maker {
    pub(super) fn counters(&self, name: &str) -> Result<IntCounterVec, prometheus::Error> {
        let spec = spec(name)?;
        self.register(IntCounterVec::new(options(spec), spec.labels)?)
    }

    pub(super) fn counter(&self, name: &str) -> Result<IntCounter, prometheus::Error> {
        self.register(IntCounter::with_opts(options(spec(name)?))?)
    }

    pub(super) fn real_counter(&self, name: &str) -> Result<Counter, prometheus::Error> {
        self.register(Counter::with_opts(options(spec(name)?))?)
    }

    pub(super) fn gauges(&self, name: &str) -> Result<IntGaugeVec, prometheus::Error> {
        let spec = spec(name)?;
        self.register(IntGaugeVec::new(options(spec), spec.labels)?)
    }

    pub(super) fn gauge(&self, name: &str) -> Result<IntGauge, prometheus::Error> {
        self.register(IntGauge::with_opts(options(spec(name)?))?)
    }

    pub(super) fn real_gauges(&self, name: &str) -> Result<GaugeVec, prometheus::Error> {
        let spec = spec(name)?;
        self.register(GaugeVec::new(options(spec), spec.labels)?)
    }

    pub(super) fn real_gauge(&self, name: &str) -> Result<Gauge, prometheus::Error> {
        self.register(Gauge::with_opts(options(spec(name)?))?)
    }

    pub(super) fn histograms(&self, name: &str) -> Result<HistogramVec, prometheus::Error> {
        let spec = spec(name)?;
        self.register(HistogramVec::new(histogram_options(spec), spec.labels)?)
    }

    pub(super) fn histogram(&self, name: &str) -> Result<Histogram, prometheus::Error> {
        self.register(Histogram::with_opts(histogram_options(spec(name)?))?)
    }

    fn register<M: Collector + Clone + 'static>(&self, metric: M) -> Result<M, prometheus::Error> {
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }
}

fn spec(name: &str) -> Result<&'static Spec, prometheus::Error> {
    let found = CATALOGUE.iter().find(|spec| spec.name == name);
    found.ok_or_else(|| prometheus::Error::Msg(format!("the metrics catalogue has no {name}")))
}

fn options(spec: &Spec) -> Opts {
    Opts::new(spec.name, spec.help).namespace("hookgate")
}

fn histogram_options(spec: &Spec) -> HistogramOpts {
    let options = HistogramOpts::new(spec.name, spec.help).namespace("hookgate");
    match spec.kind {
        Kind::Histogram(buckets) => options.buckets(buckets.to_vec()),
        Kind::Counter | Kind::Gauge => options,
    }
}
