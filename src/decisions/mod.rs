//! Pure decisions, without I/O and without a clock of their own: tested by tables and by properties.

pub mod admission;
pub mod certificate;
pub mod counts;
pub mod health;
pub mod journal;
pub mod leaving;
pub mod merging;
pub mod placement;
pub mod rebalance;
pub mod repair;
pub mod restore;
pub mod room;
pub mod scrub;
pub mod sync;
pub mod verdict;
pub mod why;
