//! Metrics of the name server.

use prometheus::{Gauge, GaugeVec, IntGauge, IntGaugeVec, Opts};

use crate::db::report::Counts;
use crate::db::rows::RebalanceRow;
use crate::decisions::verdict::Code;
use crate::types::Result;
use crate::types::api::{ActorInfo, Health, Trouble};
use crate::web::Metrics;
use crate::web::metrics::wrong;

/// The gauges that are read from the database when somebody asks.
pub struct Gauges {
    servers: IntGaugeVec,
    objects: IntGauge,
    bytes: Gauge,
    under_replicated: IntGaugeVec,
    missing: IntGauge,
    outbox: IntGauge,
    outbox_oldest: Gauge,
    repair_queue: IntGauge,
    repair_oldest: Gauge,
    journal_lag: Gauge,
    restarts: GaugeVec,
    last_pass: GaugeVec,
    trouble: IntGaugeVec,
    rebalance_moved: Gauge,
    rebalance_left: Gauge,
}

impl Gauges {
    /// Registers them.
    pub fn new(metrics: &Metrics) -> Result<Self> {
        let gauges = Self {
            servers: IntGaugeVec::new(Opts::new("holdfast_servers", "Storage servers by health"), &["state"])
                .map_err(wrong)?,
            objects: IntGauge::new("holdfast_objects", "Live objects").map_err(wrong)?,
            bytes: Gauge::new("holdfast_bytes", "Bytes of live objects, once each").map_err(wrong)?,
            under_replicated: IntGaugeVec::new(
                Opts::new("holdfast_under_replicated", "Objects short of copies, by copies left"),
                &["copies"],
            )
            .map_err(wrong)?,
            missing: IntGauge::new("holdfast_missing_objects", "Objects with no copy on a server that answers")
                .map_err(wrong)?,
            outbox: IntGauge::new("holdfast_outbox_length", "Deletions that wait for storage servers")
                .map_err(wrong)?,
            outbox_oldest: Gauge::new("holdfast_outbox_oldest_seconds", "Age of the oldest deletion that waits")
                .map_err(wrong)?,
            repair_queue: IntGauge::new("holdfast_repair_queue_length", "Objects in the repair queue")
                .map_err(wrong)?,
            repair_oldest: Gauge::new("holdfast_repair_oldest_seconds", "Age of the oldest object in the repair queue")
                .map_err(wrong)?,
            journal_lag: Gauge::new(
                "holdfast_journal_lag_seconds",
                "Age of the oldest change of the metadata that is not on the required copies of the journal",
            )
            .map_err(wrong)?,
            restarts: GaugeVec::new(Opts::new("holdfast_actor_restarts_total", "Restarts of actors"), &["actor"])
                .map_err(wrong)?,
            last_pass: GaugeVec::new(
                Opts::new("holdfast_actor_last_pass_seconds", "Time that an actor's last pass took"),
                &["actor"],
            )
            .map_err(wrong)?,
            trouble: IntGaugeVec::new(Opts::new("holdfast_trouble", "Whether the report has this trouble"), &["code"])
                .map_err(wrong)?,
            rebalance_moved: Gauge::new("holdfast_rebalance_moved_bytes", "Bytes that the last rebalancing has moved")
                .map_err(wrong)?,
            rebalance_left: Gauge::new(
                "holdfast_rebalance_left_bytes",
                "About how many bytes the rebalancing under way has left to move",
            )
            .map_err(wrong)?,
        };
        let all: [Box<dyn prometheus::core::Collector>; 15] = [
            Box::new(gauges.trouble.clone()),
            Box::new(gauges.servers.clone()),
            Box::new(gauges.objects.clone()),
            Box::new(gauges.bytes.clone()),
            Box::new(gauges.under_replicated.clone()),
            Box::new(gauges.missing.clone()),
            Box::new(gauges.outbox.clone()),
            Box::new(gauges.outbox_oldest.clone()),
            Box::new(gauges.repair_queue.clone()),
            Box::new(gauges.repair_oldest.clone()),
            Box::new(gauges.journal_lag.clone()),
            Box::new(gauges.restarts.clone()),
            Box::new(gauges.last_pass.clone()),
            Box::new(gauges.rebalance_moved.clone()),
            Box::new(gauges.rebalance_left.clone()),
        ];
        for collector in all {
            metrics.registry.register(collector).map_err(wrong)?;
        }
        Ok(gauges)
    }

    /// Shows which troubles there are; all that there can be are there from the first time on.
    pub fn show(&self, troubles: &[Trouble]) {
        for code in Code::ALL.iter().map(|code| code.word()) {
            let is_there = troubles.iter().any(|trouble| trouble.code == code);
            self.trouble.with_label_values(&[code]).set(is_there.into());
        }
    }

    /// Shows how far the last rebalancing is, if there was one.
    pub fn show_rebalance(&self, row: Option<&RebalanceRow>) {
        let left = row.filter(|row| row.is_running()).and_then(|row| row.left_bytes);
        self.rebalance_moved.set(row.map_or(0.0, |row| row.moved_bytes as f64));
        self.rebalance_left.set(left.unwrap_or(0) as f64);
    }

    /// Shows these numbers.
    pub fn set(&self, counted: &Counts, healths: &[(Health, bool)], actors: &[ActorInfo]) {
        let states = [(Health::Live, "live"), (Health::Suspect, "suspect"), (Health::Down, "down")];
        let count = |word: &str, is: &dyn Fn(Health, bool) -> bool| {
            let count = healths.iter().filter(|(health, troubled)| is(*health, *troubled)).count();
            self.servers.with_label_values(&[word]).set(count as i64);
        };
        for (health, word) in states {
            count(word, &|other, troubled| other == health && !(other == Health::Live && troubled));
        }
        // It answers, and takes nothing.
        count("trouble", &|other, troubled| other == Health::Live && troubled);
        self.objects.set(counted.objects as i64);
        self.bytes.set(counted.bytes as f64);
        self.outbox.set(counted.outbox as i64);
        self.outbox_oldest.set(counted.outbox_oldest_seconds);
        self.repair_queue.set(counted.repair.queued as i64);
        self.repair_oldest.set(counted.repair.oldest_seconds);
        self.journal_lag.set(counted.journal.lag_seconds);
        self.under_replicated.reset();
        for row in &counted.under_replicated {
            self.under_replicated.with_label_values(&[&row.copies.to_string()]).set(row.objects as i64);
        }
        let missing = counted.under_replicated.iter().find(|row| row.copies == 0).map_or(0, |row| row.objects);
        self.missing.set(missing as i64);
        for actor in actors {
            self.restarts.with_label_values(&[&actor.name]).set(actor.restarts as f64);
            self.last_pass.with_label_values(&[&actor.name]).set(actor.last_pass_seconds.unwrap_or(0.0));
        }
    }
}
