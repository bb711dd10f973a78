//! The cluster secret, and what is derived from it: tickets, server credentials, the first token.
//!
//! Whoever holds the secret owns the cluster. Everything that is signed names cluster and epoch, so that
//! nothing from another cluster, or from before a restore, is accepted. No I/O but the reading of the
//! secret's file and of those of [`tls`]; no clock: the caller says what time it is, because expiry is judged by the
//! database's.

pub mod credential;
pub mod secret;
pub mod ticket;
pub mod tls;
pub mod token;

pub use credential::{Recipient, Sender, ServerCredential};
pub use secret::ClusterSecret;
pub use ticket::{ReadTicket, ReplicateTicket, Signer, WriteTicket};
