//! The storage server: one daemon per machine (or disk), holding replicas in its data directory.
//!
//! | module | what is in it |
//! |---|---|
//! | [`store`] | the directory: layout, index, objects; no HTTP and no other servers |
//! | [`writer`] | the `IndexWriter`: group commit of changes of the index |
//! | [`reporter`] | the `CommitReporter`: reports uploads to the name server, many in one request |
//! | [`registrar`] | the `Registrar`: announces the server, and again when the name server forgot |
//! | [`condition`] | whether the server can keep what it is given, and if not, why |
//! | [`prober`] | the `Prober`: proves every few seconds that the disk takes a file |
//! | [`collector`] | the `Collector`: asks about pending replicas |
//! | [`admission`] | how many bodies are received at a time, and which of them makes room |
//! | [`readiness`] | how far the server has come since its start, for `/status` |
//! | [`heard`] | what the server has heard of the cluster, for a restore |
//! | [`scrubber`] | the `Scrubber`: reads everything again and puts aside what is corrupt |
//! | `merger` | the `Merger`: makes few files of the many segments of the journal's copy |
//! | [`suspects`] | copies that looked wrong when they were sent, on their way to the `Scrubber` |
//! | [`http`] | the endpoints |
//! | [`salvage`] | writes a data directory's files out with no server running |
//! | [`offline`] | reads every byte of a data directory with no server running |
//! | [`options`] | what can be set |
//! | [`command`] | what the command line says to do |
//! | [`state`] | what the endpoints and the actors share |
//! | `server` | start and end of the daemon |

pub mod admission;
pub mod collector;
pub mod command;
pub mod condition;
mod gauges;
pub mod heard;
pub mod http;
pub mod identity;
mod merger;
pub mod offline;
pub mod options;
pub mod prober;
pub mod readiness;
pub mod registrar;
pub mod reporter;
pub mod room;
pub mod salvage;
pub mod scrubber;
mod server;
pub mod state;
pub mod store;
pub mod suspects;
pub mod writer;
