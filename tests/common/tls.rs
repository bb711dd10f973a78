//! Certificates for tests, made by the program itself, and such as it does not make.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use rcgen::{CertificateParams, Issuer, KeyPair};

use super::cluster::ended;

fn certs(dir: &Path, args: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command.arg("certs").args(args).arg("--dir").arg(dir);
    let (code, _, errors) = ended(command.output().unwrap());
    assert_eq!(code, 0, "holdfast certs {args:?}: {errors}");
}

/// An authority in `dir`.
pub fn init(dir: &Path) {
    certs(dir, &["init"]);
}

/// A certificate for a server on this machine.
pub fn server(dir: &Path, name: &str) {
    certs(dir, &["server", name, "--san", "127.0.0.1"]);
}

/// A new one in the place of the old one.
pub fn renew(dir: &Path, name: &str, days: u32) {
    certs(dir, &["renew", name, "--days", &days.to_string()]);
}

/// Puts one that is valid from `from` until `until`, and for these names, in the place of a server's own.
pub fn odd(dir: &Path, name: &str, names: &[&str], (from, until): (TimeDelta, TimeDelta)) {
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&read("ca.pem"), KeyPair::from_pem(&read("ca.key")).unwrap()).unwrap();
    let mut params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
    let at = |time: DateTime<Utc>| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(time.timestamp() as u64);
    (params.not_before, params.not_after) = (at(Utc::now() + from), at(Utc::now() + until));
    let key = KeyPair::generate().unwrap();
    std::fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    std::fs::write(dir.join(format!("{name}.pem")), params.signed_by(&key, &issuer).unwrap().pem()).unwrap();
}
