//! The supervisor, the shells that all actors share, and the name server's actors.
//!
//! An actor here is a thin shell around a plain async function over its dependencies. There are two shells:
//! [`pass`] does one bounded pass after the other, [`batch`] collects what is sent to it and does it together.
//! [`supervisor`] keeps them alive. State is in the database; an actor that restarts has lost nothing.

pub mod admission;
pub mod announced;
pub mod auditor;
pub mod batch;
pub mod board;
pub mod certificate_keeper;
pub mod context;
pub mod fsck;
pub mod health_monitor;
pub mod jobs;
pub mod journal_holders;
pub mod journal_keeper;
pub mod lease_keeper;
pub mod metadata_writer;
pub mod pass;
pub mod pass_report;
pub mod reaper;
pub mod rebalance;
pub mod replication_manager;
pub mod restore;
pub mod scans;
pub mod scrub_path;
pub mod snapshot_sender;
pub mod standing;
pub mod supervisor;
pub mod sync_actor;
pub mod transfers;

pub use batch::Batcher;
pub use board::Board;
pub use pass::PassActor;
pub use pass_report::PassReport;
pub use standing::Standing;
pub use supervisor::{Handle, Supervisor};
