//! Prometheus metrics that every server has, and the text that `/metrics` answers.

use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{
    Encoder, Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::security::tls::ServerCertificate;
use crate::types::api::ActorInfo;
use crate::types::{Error, Result};

/// A registry with the histogram of HTTP requests in it.
#[derive(Clone)]
pub struct Metrics {
    /// Where further metrics are registered.
    pub registry: Registry,
    /// `holdfast_http_request_duration_seconds`.
    pub http: HistogramVec,
}

impl Metrics {
    /// A new registry.
    pub fn new() -> Result<Self> {
        let options =
            HistogramOpts::new("holdfast_http_request_duration_seconds", "Time to answer HTTP requests, in seconds")
                .buckets(vec![0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]);
        let http = HistogramVec::new(options, &["route", "method", "status"]).map_err(wrong)?;
        let registry = Registry::new();
        registry.register(Box::new(http.clone())).map_err(wrong)?;
        Ok(Self { registry, http })
    }

    /// The text exposition format.
    pub fn text(&self) -> Result<String> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text).map_err(wrong)?;
        String::from_utf8(text).map_err(|error| Error::internal("the metrics are not UTF-8").with_source(error))
    }
}

/// `holdfast_actor_restarts_total`, `holdfast_actor_last_pass_seconds` and `holdfast_actor_last_pass_count`.
pub struct ActorGauges {
    restarts: IntCounterVec,
    last_pass: GaugeVec,
    counts: IntGaugeVec,
}

impl ActorGauges {
    /// Registers them.
    pub fn new(metrics: &Metrics) -> Result<Self> {
        let restarts = Opts::new("holdfast_actor_restarts_total", "Restarts of actors");
        let last_pass = Opts::new("holdfast_actor_last_pass_seconds", "Time that an actor's last pass took");
        let counts = Opts::new("holdfast_actor_last_pass_count", "Numbers of what an actor's last pass did");
        let gauges = Self {
            restarts: IntCounterVec::new(restarts, &["actor"]).map_err(wrong)?,
            last_pass: GaugeVec::new(last_pass, &["actor"]).map_err(wrong)?,
            counts: IntGaugeVec::new(counts, &["actor", "what"]).map_err(wrong)?,
        };
        metrics.registry.register(Box::new(gauges.restarts.clone())).map_err(wrong)?;
        metrics.registry.register(Box::new(gauges.last_pass.clone())).map_err(wrong)?;
        metrics.registry.register(Box::new(gauges.counts.clone())).map_err(wrong)?;
        Ok(gauges)
    }

    /// Shows how the actors are.
    pub fn set(&self, actors: &[ActorInfo]) {
        // A pass that only waits has no numbers: those of an earlier one are not its own.
        self.counts.reset();
        for actor in actors {
            let restarts = self.restarts.with_label_values(&[&actor.name]);
            // A counter only rises, and so do they.
            restarts.inc_by(actor.restarts.saturating_sub(restarts.get()));
            self.last_pass.with_label_values(&[&actor.name]).set(actor.last_pass_seconds.unwrap_or(0.0));
            for count in &actor.counts {
                self.counts.with_label_values(&[&actor.name, &count.what]).set(count.count as i64);
            }
        }
    }
}

/// `holdfast_tls_certificate_not_after_timestamp_seconds`: always of the certificate that is in use.
struct CertificateEnd {
    gauge: Gauge,
    certificate: Arc<ServerCertificate>,
}

impl Metrics {
    /// Shows when the server's certificate ends, if it has one.
    pub fn show_certificate(&self, certificate: Option<&Arc<ServerCertificate>>) -> Result<()> {
        let Some(certificate) = certificate.cloned() else { return Ok(()) };
        let help = "When the server's TLS certificate ends, in seconds since 1970";
        let gauge = Gauge::new("holdfast_tls_certificate_not_after_timestamp_seconds", help).map_err(wrong)?;
        self.registry.register(Box::new(CertificateEnd { gauge, certificate })).map_err(wrong)
    }
}

impl Collector for CertificateEnd {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.gauge.set(self.certificate.status().validity.until.timestamp() as f64);
        self.gauge.collect()
    }
}

/// A failure of the metrics library.
pub fn wrong(error: prometheus::Error) -> Error {
    Error::internal("the metrics are not right").with_source(error)
}
