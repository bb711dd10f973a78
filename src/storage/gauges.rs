//! The numbers of a storage server in its metrics.

use prometheus::{Gauge, IntCounter, IntGauge};

use crate::types::Result;
use crate::web::metrics::ActorGauges;
use crate::web::{Metrics, metrics};

/// Of the copies here, and of the actors.
pub(super) struct Gauges {
    pub(super) bytes: Gauge,
    pub(super) objects: IntGauge,
    pub(super) scrub_corrupt: IntCounter,
    pub(super) scrub_age: Gauge,
    pub(super) actors: ActorGauges,
}

impl Gauges {
    pub(super) fn new(metrics: &Metrics) -> Result<Self> {
        let bytes = Gauge::new("holdfast_store_bytes", "Bytes of all replicas here").map_err(metrics::wrong)?;
        let objects = IntGauge::new("holdfast_store_objects", "Replicas here").map_err(metrics::wrong)?;
        let scrub_corrupt = IntCounter::new("holdfast_scrub_corrupt_total", "Corrupt replicas found since the start")
            .map_err(metrics::wrong)?;
        let scrub_age = Gauge::new("holdfast_scrub_age_seconds", "Time since the replica checked least recently was")
            .map_err(metrics::wrong)?;
        let all: [Box<dyn prometheus::core::Collector>; 4] = [
            Box::new(bytes.clone()),
            Box::new(objects.clone()),
            Box::new(scrub_corrupt.clone()),
            Box::new(scrub_age.clone()),
        ];
        for metric in all {
            metrics.registry.register(metric).map_err(metrics::wrong)?;
        }
        Ok(Self { bytes, objects, scrub_corrupt, scrub_age, actors: ActorGauges::new(metrics)? })
    }
}
