//! Metrics of the name server.

use prometheus::{Gauge, IntGauge, IntGaugeVec, Opts};

use crate::db::report::Counts;
use crate::db::rows::RebalanceRow;
use crate::decisions::verdict::Code;
use crate::types::Result;
use crate::types::api::{ActorInfo, Health, Trouble};
use crate::types::limits::REPLICATION_MAX;
use crate::web::Metrics;
use crate::web::metrics::{ActorGauges, wrong};

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
    counted: IntGauge,
    trouble: IntGaugeVec,
    actors: ActorGauges,
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
            counted: IntGauge::new(
                "holdfast_counted",
                "1 when this scrape has read what is in the cluster; 0 when the other numbers are those of an earlier scrape",
            )
            .map_err(wrong)?,
            actors: ActorGauges::new(metrics)?,
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
        let all: [Box<dyn prometheus::core::Collector>; 14] = [
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
            Box::new(gauges.counted.clone()),
            Box::new(gauges.rebalance_moved.clone()),
            Box::new(gauges.rebalance_left.clone()),
        ];
        for collector in all {
            metrics.registry.register(collector).map_err(wrong)?;
        }
        // Every series is there from the first scrape on: "none" is a 0, and not the lack of a line.
        gauges.show(&[]);
        gauges.show_servers(&[]);
        gauges.show_counts(None);
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

    /// Shows how the servers are, each by its health and whether it has a trouble.
    pub fn show_servers(&self, healths: &[(Health, bool)]) {
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
    }

    /// Shows how the actors are.
    pub fn show_actors(&self, actors: &[ActorInfo]) {
        self.actors.set(actors);
    }

    /// Shows what is in the cluster; `None` when that could not be read in time: then the numbers stay as they were.
    pub fn show_counts(&self, counted: Option<&Counts>) {
        self.counted.set(counted.is_some().into());
        let copies = |copies: u32| self.under_replicated.with_label_values(&[&copies.to_string()]);
        let Some(counted) = counted else {
            // They exist from now on, and keep what they were set to.
            (0..REPLICATION_MAX).for_each(|number| drop(copies(number)));
            return;
        };
        self.objects.set(counted.objects as i64);
        self.bytes.set(counted.bytes as f64);
        self.outbox.set(counted.outbox as i64);
        self.outbox_oldest.set(counted.outbox_oldest_seconds);
        self.repair_queue.set(counted.repair.queued as i64);
        self.repair_oldest.set(counted.repair.oldest_seconds);
        self.journal_lag.set(counted.journal.lag_seconds);
        let short = |copies: u32| counted.under_replicated.iter().find(|row| row.copies == copies);
        for number in 0..REPLICATION_MAX {
            copies(number).set(short(number).map_or(0, |row| row.objects) as i64);
        }
        self.missing.set(short(0).map_or(0, |row| row.objects) as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::api::CopiesCount;

    #[test]
    fn every_series_is_there_before_anything_was_read_and_keeps_its_number_while_nothing_can_be() {
        let metrics = Metrics::new().unwrap();
        let gauges = Gauges::new(&metrics).unwrap();
        let text = metrics.text().unwrap();
        let mut series = vec!["holdfast_counted 0".to_string(), "holdfast_missing_objects 0".into()];
        series.extend((0..REPLICATION_MAX).map(|copies| format!("holdfast_under_replicated{{copies=\"{copies}\"}} 0")));
        series.extend(
            ["live", "suspect", "down", "trouble"].map(|state| format!("holdfast_servers{{state=\"{state}\"}} 0")),
        );
        series.extend(Code::ALL.iter().map(|code| format!("holdfast_trouble{{code=\"{}\"}} 0", code.word())));
        for line in &series {
            assert!(text.lines().any(|other| other == line), "{line} is missing in\n{text}");
        }
        let short = |copies| CopiesCount { copies, objects: 3 + u64::from(copies), bytes: 9 };
        gauges.show_counts(Some(&Counts { under_replicated: vec![short(0), short(1)], ..Counts::default() }));
        gauges.show_counts(None);
        let text = metrics.text().unwrap();
        for line in ["holdfast_counted 0", "holdfast_missing_objects 3", "holdfast_under_replicated{copies=\"1\"} 4"] {
            assert!(text.lines().any(|other| other == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn restarts_are_a_counter() {
        let metrics = Metrics::new().unwrap();
        let gauges = Gauges::new(&metrics).unwrap();
        let board = crate::actors::Board::default();
        board.restarted("Reaper");
        let report = crate::actors::PassReport::of(vec![("copies deleted", 7), ("copies that wait", 0)]);
        board.pass("Reaper", std::time::Duration::from_millis(2), Ok(&report));
        for _ in 0..2 {
            gauges.show_actors(&board.all());
        }
        let text = metrics.text().unwrap();
        assert!(text.contains("# TYPE holdfast_actor_restarts_total counter"), "{text}");
        assert!(text.contains("holdfast_actor_restarts_total{actor=\"Reaper\"} 1"), "{text}");
        for (what, count) in [("copies deleted", 7), ("copies that wait", 0)] {
            let line = format!("holdfast_actor_last_pass_count{{actor=\"Reaper\",what=\"{what}\"}} {count}");
            assert!(text.contains(&line), "{text}");
        }
    }
}
