//! TLS: the certificate that a server shows, and the authorities that a client trusts. Both are files that people and
//! programs replace while servers run, so both are read again without a restart.
//!
//! - A reload either takes everything or changes nothing: what cannot be used is told, and what was in use goes on.
//! - Whoever holds a [`ServerCertificate`] or [`Trust`] sees the newest; new connections use it, old ones go on.
//! - No session is resumed: each new connection sees the certificate and judges it, so that one that has ended, or an
//!   authority that was taken out, opens nothing more.

mod certificate;
mod trust;

pub use self::certificate::{Facts, Reload, ServerCertificate, facts_of};
pub use self::trust::Trust;

/// Makes ring the TLS implementation of the process; harmless when repeated.
pub fn install_crypto_provider() {
    // An error means that one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
