//! The certificate that a server shows.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use parking_lot::{Mutex, RwLock};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;

use crate::types::storage_api::{CertificateStatus, Validity};
use crate::types::{Error, Result, Sha256, Time};

/// A certificate and key, as they are in use now.
pub struct ServerCertificate {
    chain_file: PathBuf,
    key_file: PathBuf,
    current: RwLock<Loaded>,
    /// Newer files that cannot be used.
    refused: Mutex<Option<Refused>>,
}

/// One reading of both files.
#[derive(Clone)]
struct Loaded {
    /// Of the bytes of both files.
    digest: Sha256,
    key: Arc<CertifiedKey>,
    facts: Facts,
}

/// What is wrong with files that are there now.
struct Refused {
    digest: Sha256,
    reason: String,
    /// It was told. Files that are replaced one after the other do not go together for a moment, so what is wrong is
    /// told when it was seen twice.
    told: bool,
}

/// What a reload found.
#[derive(Debug, PartialEq, Eq)]
pub enum Reload {
    /// The files are those in use, or what is wrong with them was told before.
    Same,
    /// They are in use from now on.
    Replaced,
    /// They cannot be used, for this reason; what was in use goes on.
    Refused(String),
}

/// What a certificate says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Whom it is for.
    pub subject: String,
    /// Host names and IP addresses that it is for.
    pub names: Vec<String>,
    /// When it is valid.
    pub validity: Validity,
}

impl ServerCertificate {
    /// Reads a certificate chain and its key (PEM).
    pub fn load(chain_file: &Path, key_file: &Path) -> Result<Arc<Self>> {
        super::install_crypto_provider();
        let current = read(chain_file, key_file).map_err(|(_, error)| error)?;
        Ok(Arc::new(Self {
            chain_file: chain_file.into(),
            key_file: key_file.into(),
            current: RwLock::new(current),
            refused: Mutex::default(),
        }))
    }

    /// Reads the files again, and uses what is new in them. `at_once`: what is wrong is told although it was seen for
    /// the first time, or was told before.
    pub fn reload(&self, now: Time, at_once: bool) -> Reload {
        let current = self.loaded();
        let usable = read(&self.chain_file, &self.key_file).and_then(|new| {
            let worse = !is_valid(&new.facts.validity, now) && is_valid(&current.facts.validity, now);
            if new.digest != current.digest && worse {
                let Validity { from, until } = new.facts.validity;
                let message = format!("it is valid from {} until {} only", day(from), day(until));
                return Err((new.digest, Error::invalid(message)));
            }
            Ok(new)
        });
        let mut refused = self.refused.lock();
        match usable {
            Ok(new) if new.digest == current.digest => {
                *refused = None;
                Reload::Same
            }
            Ok(new) => {
                *refused = None;
                *self.current.write() = new;
                Reload::Replaced
            }
            Err((digest, error)) => {
                let reason = error.message().to_string();
                let before = refused.as_ref().filter(|before| before.digest == digest);
                let tell = at_once || before.is_some_and(|before| !before.told);
                let told = tell || before.is_some_and(|before| before.told);
                *refused = Some(Refused { digest, reason: reason.clone(), told });
                if tell { Reload::Refused(reason) } else { Reload::Same }
            }
        }
    }

    /// The TLS side of a server that shows it.
    pub fn server_config(self: &Arc<Self>) -> rustls::ServerConfig {
        let mut config = rustls::ServerConfig::builder().with_no_client_auth().with_cert_resolver(self.clone());
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config
    }

    /// When the chain in use is valid, and what is wrong with newer files, if they cannot be used.
    pub fn status(&self) -> CertificateStatus {
        let refused = self.refused.lock();
        CertificateStatus {
            validity: self.loaded().facts.validity,
            refused: refused.as_ref().filter(|refused| refused.told).map(|refused| refused.reason.clone()),
        }
    }

    /// The file with the chain.
    pub fn file(&self) -> &Path {
        &self.chain_file
    }

    /// Whether it is for a host; and if not, for which names it is.
    pub fn covers(&self, host: &str) -> std::result::Result<(), Vec<String>> {
        let loaded = self.loaded();
        let name = ServerName::try_from(host.trim_start_matches('[').trim_end_matches(']'));
        let leaf = loaded.key.cert.first().and_then(|leaf| ParsedCertificate::try_from(leaf).ok());
        match (name, leaf) {
            (Ok(name), Some(leaf)) if rustls::client::verify_server_name(&leaf, &name).is_ok() => Ok(()),
            _ => Err(loaded.facts.names),
        }
    }

    fn loaded(&self) -> Loaded {
        self.current.read().clone()
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().key.clone())
    }
}

impl std::fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerCertificate").field("chain_file", &self.chain_file).finish_non_exhaustive()
    }
}

/// Reads both files. A failure goes with a digest that stays the same as long as the files do.
fn read(chain_file: &Path, key_file: &Path) -> std::result::Result<Loaded, (Sha256, Error)> {
    let open = |path: &Path| {
        fs::read(path).map_err(|error| {
            let error = Error::invalid(format!("cannot read {}: {error}", path.display())).with_source(error);
            (Sha256::of(error.message().as_bytes()), error)
        })
    };
    let (chain, key) = (open(chain_file)?, open(key_file)?);
    let digest = Sha256::of(&[chain.as_slice(), key.as_slice()].concat());
    parse(&chain, &key, chain_file, key_file)
        .map(|(key, facts)| Loaded { digest, key: Arc::new(key), facts })
        .map_err(|error| (digest, error))
}

fn parse(chain: &[u8], key: &[u8], chain_file: &Path, key_file: &Path) -> Result<(CertifiedKey, Facts)> {
    let wrong = |path: &Path, error: rustls::pki_types::pem::Error| {
        Error::invalid(format!("{} is not PEM: {error}", path.display())).with_source(error)
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| wrong(chain_file, error))?;
    if chain.is_empty() {
        return Err(Error::invalid(format!("{} holds no certificate", chain_file.display())));
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| wrong(key_file, error))?;
    let mut facts = facts_of(&chain[0]).map_err(|error| error.context(chain_file.display()))?;
    for issuer in &chain[1..] {
        let validity = facts_of(issuer).map_err(|error| error.context(chain_file.display()))?.validity;
        // A chain is valid while all of it is.
        facts.validity.from = facts.validity.from.max(validity.from);
        facts.validity.until = facts.validity.until.min(validity.until);
    }
    let together = CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider());
    let key = together.map_err(|error| {
        let (chain, key) = (chain_file.display(), key_file.display());
        Error::invalid(format!("the certificate {chain} and the key {key} do not go together: {error}"))
            .with_source(error)
    })?;
    Ok((key, facts))
}

/// What a certificate says of itself.
pub fn facts_of(certificate: &CertificateDer<'_>) -> Result<Facts> {
    let unreadable = |reason: String| Error::invalid(format!("the certificate cannot be read: {reason}"));
    let (_, certificate) =
        x509_parser::parse_x509_certificate(certificate).map_err(|error| unreadable(error.to_string()))?;
    let time = |time: x509_parser::time::ASN1Time| DateTime::<Utc>::from_timestamp(time.timestamp(), 0);
    let validity = certificate.validity();
    let (Some(from), Some(until)) = (time(validity.not_before), time(validity.not_after)) else {
        return Err(unreadable("its times are out of range".into()));
    };
    let names = certificate.subject_alternative_name().map_err(|error| unreadable(error.to_string()))?;
    let names = names.map(|names| names.value.general_names.iter().filter_map(name).collect()).unwrap_or_default();
    Ok(Facts { subject: certificate.subject().to_string(), names, validity: Validity { from, until } })
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_string()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|bytes| std::net::Ipv4Addr::from(bytes).to_string()),
            16 => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| std::net::Ipv6Addr::from(bytes).to_string()),
            _ => None,
        },
        _ => None,
    }
}

fn is_valid(validity: &Validity, now: Time) -> bool {
    validity.from <= now && now <= validity.until
}

fn day(time: Time) -> String {
    time.format("%Y-%m-%d %H:%M UTC").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;
    use rcgen::{CertificateParams, KeyPair};

    /// Writes a certificate that signs itself, and its key.
    fn write(dir: &Path, names: &[&str], from: Time, until: Time) -> (PathBuf, PathBuf) {
        let mut params = CertificateParams::new(names.iter().map(|name| name.to_string()).collect::<Vec<_>>()).unwrap();
        let at =
            |time: Time| rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(time.timestamp() as u64);
        (params.not_before, params.not_after) = (at(from), at(until));
        let key = KeyPair::generate().unwrap();
        let (chain_file, key_file) = (dir.join("server.pem"), dir.join("server.key"));
        fs::write(&chain_file, params.self_signed(&key).unwrap().pem()).unwrap();
        fs::write(&key_file, key.serialize_pem()).unwrap();
        (chain_file, key_file)
    }

    fn now() -> Time {
        DateTime::from_timestamp(Utc::now().timestamp(), 0).unwrap()
    }

    #[test]
    fn new_files_are_taken_and_broken_ones_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let (now, days) = (now(), TimeDelta::days);
        let (chain, key) = write(dir.path(), &["a.example", "127.0.0.1"], now, now + days(30));
        let certificate = ServerCertificate::load(&chain, &key).unwrap();
        assert_eq!(certificate.status().validity, Validity { from: now, until: now + days(30) });
        assert_eq!(certificate.reload(now, false), Reload::Same);
        write(dir.path(), &["a.example"], now, now + days(60));
        assert_eq!(certificate.reload(now, false), Reload::Replaced);
        assert_eq!(certificate.status().validity.until, now + days(60));
        // Half of a replacement: the key does not go with the chain. The second look tells, the third has told.
        let good = fs::read(&key).unwrap();
        fs::write(&key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
        assert_eq!((certificate.reload(now, false), certificate.status().refused), (Reload::Same, None));
        let Reload::Refused(reason) = certificate.reload(now, false) else { panic!("it is not told") };
        assert!(reason.contains("do not go together") && reason.contains("server.key"), "{reason}");
        assert_eq!(certificate.reload(now, false), Reload::Same);
        assert_eq!(certificate.status().refused, Some(reason));
        assert!(matches!(certificate.reload(now, true), Reload::Refused(_)), "asked for, it is told again");
        assert_eq!(certificate.status().validity.until, now + days(60), "what was in use goes on");
        fs::write(&key, good).unwrap();
        assert_eq!((certificate.reload(now, false), certificate.status().refused), (Reload::Same, None));
        for broken in [&b""[..], b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            fs::write(&chain, broken).unwrap();
            assert!(matches!(certificate.reload(now, true), Reload::Refused(_)));
        }
        fs::remove_file(&chain).unwrap();
        assert!(matches!(certificate.reload(now, true), Reload::Refused(reason) if reason.contains("cannot read")));
        assert!(ServerCertificate::load(&chain, &key).is_err());
    }

    #[test]
    fn one_that_has_ended_replaces_no_valid_one() {
        let dir = tempfile::tempdir().unwrap();
        let (now, days) = (now(), TimeDelta::days);
        let (chain, key) = write(dir.path(), &["a"], now - days(10), now + days(1));
        let certificate = ServerCertificate::load(&chain, &key).unwrap();
        write(dir.path(), &["a"], now - days(10), now - days(1));
        assert!(matches!(certificate.reload(now, true), Reload::Refused(reason) if reason.contains("valid from")));
        assert_eq!(certificate.reload(now + days(2), true), Reload::Replaced, "neither is valid any more");
    }

    #[test]
    fn a_certificate_knows_its_names() {
        let dir = tempfile::tempdir().unwrap();
        let (chain, key) = write(dir.path(), &["a.example", "10.0.0.7", "::1"], now(), now() + TimeDelta::days(1));
        let certificate = ServerCertificate::load(&chain, &key).unwrap();
        for host in ["a.example", "A.example", "10.0.0.7", "[::1]"] {
            assert_eq!(certificate.covers(host), Ok(()), "{host}");
        }
        for host in ["b.example", "10.0.0.8", "", "a.example.b", "not a host"] {
            assert_eq!(certificate.covers(host), Err(vec!["a.example".into(), "10.0.0.7".into(), "::1".into()]));
        }
    }
}
