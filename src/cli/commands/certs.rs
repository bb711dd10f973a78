//! `holdfast certs`: a private authority, and certificates for the cluster's servers.
//!
//! All of it are files in one directory: `ca.pem` and `ca.key`, and for each server `NAME.pem` and `NAME.key`. Keys are for
//! their owner alone. Nothing is ever written over: the key of the authority cannot be made again. `renew` keeps the old pair under other names.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde::Serialize;
use structopt::StructOpt;

use crate::cli::config::sync_directory_of;
use crate::cli::exit::Exit;
use crate::cli::options::GlobalArgs;
use crate::cli::output::Output;
use crate::cli::progress::say;
use crate::security::tls::{Facts, facts_of};
use crate::types::error::IoContext;
use crate::types::{Error, ErrorCode, Result, Time};

/// Name of the authority's files.
const AUTHORITY: &str = "ca";
/// Clocks differ; a certificate is valid from a little before it was made.
const CLOCKS_DIFFER: TimeDelta = TimeDelta::hours(1);
/// Longest life that can be asked for, in days.
const DAYS_MAX: i64 = 36_500;

/// `certs`.
#[derive(Debug, StructOpt)]
pub(crate) enum CertsCommand {
    /// Makes an authority: ca.pem, which everybody gets, and ca.key, which stays where it is
    Init {
        #[structopt(flatten)]
        dir: Dir,
        /// How long the authority lasts
        #[structopt(long, value_name = "DAYS", default_value = "3650", parse(try_from_str = days))]
        days: i64,
    },
    /// Makes certificates for servers: NAME.pem and NAME.key for each
    Server {
        #[structopt(flatten)]
        dir: Dir,
        /// The host name or IP address that stands in the server's URLs; several servers if need be
        #[structopt(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// A further host name or IP address of the same server; several if need be
        #[structopt(long, value_name = "HOST_OR_IP", number_of_values = 1)]
        san: Vec<String>,
        /// How long they last
        #[structopt(long, value_name = "DAYS", default_value = "397", parse(try_from_str = days))]
        days: i64,
    },
    /// Makes new certificates with the same names, and puts the old ones aside
    Renew {
        #[structopt(flatten)]
        dir: Dir,
        /// The servers, as they were named
        #[structopt(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// How long they last
        #[structopt(long, value_name = "DAYS", default_value = "397", parse(try_from_str = days))]
        days: i64,
    },
    /// Shows the certificates, for whom they are and when they end
    List {
        #[structopt(flatten)]
        dir: Dir,
    },
}

/// Where the files are.
#[derive(Debug, StructOpt)]
pub(crate) struct Dir {
    /// Where the files are
    #[structopt(long = "dir", value_name = "DIR", default_value = "./holdfast-certs", parse(from_os_str))]
    path: PathBuf,
}

fn days(text: &str) -> std::result::Result<i64, String> {
    match text.parse() {
        Ok(days @ 1..=DAYS_MAX) => Ok(days),
        _ => Err(format!("must be a number of days from 1 to {DAYS_MAX}")),
    }
}

/// `holdfast certs`.
pub(crate) fn run(global: &GlobalArgs, command: &CertsCommand) -> Result<Exit> {
    let made = match command {
        CertsCommand::Init { dir, days } => vec![init(&dir.path, *days)?],
        CertsCommand::Server { dir, names, san, days } => servers(&dir.path, names, san, *days)?,
        CertsCommand::Renew { dir, names, days } => renew(&dir.path, names, *days)?,
        CertsCommand::List { dir } => return list(global, &dir.path),
    };
    let mut output = Output::new();
    if global.json {
        output.json(&made)?;
        output.flush()?;
    } else if !global.quiet {
        what_to_do(command, &made);
    }
    Ok(Exit::Done)
}

/// A certificate on the disk.
#[derive(Debug, Clone, Serialize)]
struct Shown {
    name: String,
    certificate: PathBuf,
    key: PathBuf,
    names: Vec<String>,
    valid_from: Time,
    valid_until: Time,
}

impl Shown {
    fn new(dir: &Path, name: &str, facts: Facts) -> Self {
        Self {
            name: name.into(),
            certificate: certificate_path(dir, name),
            key: key_path(dir, name),
            names: facts.names,
            valid_from: facts.validity.from,
            valid_until: facts.validity.until,
        }
    }
}

fn certificate_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.pem"))
}

fn key_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.key"))
}

fn what_to_do(command: &CertsCommand, made: &[Shown]) {
    for one in made {
        let (certificate, key) = (one.certificate.display(), one.key.display());
        let until = one.valid_until.format("%Y-%m-%d");
        match command {
            CertsCommand::Init { .. } => say(&format!(
                "{certificate} is the authority, until {until}: copy it to every server and client (`--ca-cert`). {key} stays \
                 here, in a safe place: whoever has it can pretend to be any server. `holdfast certs server NAME` goes on."
            )),
            _ => say(&format!(
                "{certificate} and {key} are for {}, until {until}: copy both to that server alone (`--tls-cert`, \
                 `--tls-key`; the key readable by the service only).",
                one.names.join(", ")
            )),
        }
    }
    if matches!(command, CertsCommand::Renew { .. }) {
        say("A running server takes new files by itself within seconds; SIGHUP makes it look at once.");
    }
}

/// `certs init`.
fn init(dir: &Path, days: i64) -> Result<Shown> {
    refuse_taken(dir, AUTHORITY)?;
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.io_context(|| format!("making the directory {}", dir.display()))?;
    let mut params = CertificateParams::default();
    // Two authorities must not have the same name: a client that trusts one would complain of a wrong signature.
    let number: u32 = rand::random();
    params.distinguished_name = named(&format!("Holdfast authority {number:08x}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    last(&mut params, Utc::now(), days);
    let key = KeyPair::generate().map_err(cannot_make)?;
    let certificate = params.self_signed(&key).map_err(cannot_make)?;
    write_pair(dir, AUTHORITY, &certificate.pem(), &key)?;
    Ok(Shown::new(dir, AUTHORITY, facts_of(certificate.der())?))
}

/// `certs server`.
fn servers(dir: &Path, names: &[String], san: &[String], days: i64) -> Result<Vec<Shown>> {
    if names.len() > 1 && !san.is_empty() {
        return Err(Error::invalid("--san is for one server; make the certificates one by one"));
    }
    let authority = Authority::read(dir)?;
    // All or none: what is wrong with the last name is known before the first file is written.
    for name in names {
        check_name(name)?;
        refuse_taken(dir, name)?;
    }
    san.iter().try_for_each(|name| check_name(name))?;
    let one = |name: &String| {
        let mut all = vec![name.clone()];
        all.extend(san.iter().filter(|other| *other != name).cloned());
        let (certificate, key) = authority.certify(&all, days)?;
        write_pair(dir, name, &certificate.pem(), &key)?;
        Ok(Shown::new(dir, name, facts_of(certificate.der())?))
    };
    names.iter().map(one).collect()
}

/// `certs renew`.
fn renew(dir: &Path, names: &[String], days: i64) -> Result<Vec<Shown>> {
    let authority = Authority::read(dir)?;
    let mut old = Vec::new();
    for name in names {
        check_name(name)?;
        let facts = read(&certificate_path(dir, name))?;
        if facts.names.is_empty() {
            return Err(Error::invalid(format!("{} is for no name", certificate_path(dir, name).display())));
        }
        old.push(facts);
    }
    let one = |(name, old): (&String, Facts)| {
        let (certificate, key) = authority.certify(&old.names, days)?;
        keep_old(dir, name, &old)?;
        // A server that looks between the two finds a pair that does not go together, and looks again.
        replace(&key_path(dir, name), &key.serialize_pem(), 0o600)?;
        replace(&certificate_path(dir, name), &certificate.pem(), 0o644)?;
        sync_directory_of(&certificate_path(dir, name))?;
        Ok(Shown::new(dir, name, facts_of(certificate.der())?))
    };
    names.iter().zip(old).map(one).collect()
}

/// `certs list`.
fn list(global: &GlobalArgs, dir: &Path) -> Result<Exit> {
    let entries = fs::read_dir(dir).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
    let mut names: Vec<String> = entries
        .io_context(|| format!("reading {}", dir.display()))?
        .iter()
        .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".pem").map(String::from))
        .collect();
    names.sort();
    let shown: Vec<Shown> = names
        .iter()
        .map(|name| Ok(Shown::new(dir, name, read(&certificate_path(dir, name))?)))
        .collect::<Result<_>>()?;
    let mut output = Output::new();
    if global.json {
        output.json(&shown)?;
    } else {
        let day = |time: Time| time.format("%Y-%m-%d").to_string();
        let state = |one: &Shown| if one.valid_until < Utc::now() { "ended" } else { "valid" }.to_string();
        let row = |one: &Shown| vec![one.name.clone(), state(one), day(one.valid_until), one.names.join(", ")];
        output.table(&["NAME", "STATE", "ENDS", "FOR"], shown.iter().map(row).collect())?;
    }
    output.flush()?;
    Ok(Exit::Done)
}

/// What signs.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    until: Time,
}

impl Authority {
    fn read(dir: &Path) -> Result<Self> {
        let (certificate_path, key_path) = (certificate_path(dir, AUTHORITY), key_path(dir, AUTHORITY));
        if !certificate_path.exists() && !key_path.exists() {
            return Err(Error::not_found(format!(
                "there is no authority in {}; `holdfast certs init --dir {}` makes one",
                dir.display(),
                dir.display()
            )));
        }
        let open = |path: &Path| fs::read_to_string(path).io_context(|| format!("reading {}", path.display()));
        let (certificate, key) = (open(&certificate_path)?, open(&key_path)?);
        let wrong = |path: &Path, error: rcgen::Error| {
            Error::invalid(format!("{} cannot be used: {error}", path.display())).with_source(error)
        };
        let key = KeyPair::from_pem(&key).map_err(|error| wrong(&key_path, error))?;
        let der = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|error| Error::invalid(format!("{} is not PEM: {error}", certificate_path.display())))?;
        let until = facts_of(&der)?.validity.until;
        if until < Utc::now() {
            return Err(Error::invalid(format!(
                "the authority {} has ended on {}; make a new one in another directory, and new certificates",
                certificate_path.display(),
                until.format("%Y-%m-%d")
            )));
        }
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|error| wrong(&certificate_path, error))?;
        Ok(Self { issuer, until })
    }

    /// A new certificate and key for a server.
    fn certify(&self, names: &[String], days: i64) -> Result<(rcgen::Certificate, KeyPair)> {
        let mut params = CertificateParams::new(names.to_vec()).map_err(cannot_make)?;
        params.distinguished_name = named(names.first().map_or("", String::as_str));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let now = Utc::now();
        // A certificate that outlives its authority is worth nothing after that.
        last(&mut params, now, days.min((self.until - now).num_days()).max(1));
        let key = KeyPair::generate().map_err(cannot_make)?;
        Ok((params.signed_by(&key, &self.issuer).map_err(cannot_make)?, key))
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn last(params: &mut CertificateParams, now: Time, days: i64) {
    let at = |time: Time| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(time.timestamp().max(0) as u64);
    params.not_before = at(now - CLOCKS_DIFFER);
    params.not_after = at(now + TimeDelta::days(days));
}

fn cannot_make(error: rcgen::Error) -> Error {
    Error::internal(format!("the certificate cannot be made: {error}")).with_source(error)
}

/// A name that servers are reached by, and that can be a file's name.
fn check_name(name: &str) -> Result<()> {
    let usable = !name.starts_with('.') && !name.contains('/') && ServerName::try_from(name).is_ok();
    if !usable || name == AUTHORITY {
        return Err(Error::invalid(format!(
            "{name:?} is not a host name or IP address; give what stands in the server's URL, without https:// and port"
        )));
    }
    Ok(())
}

fn read(path: &Path) -> Result<Facts> {
    let wrong = |error: rustls::pki_types::pem::Error| match error {
        rustls::pki_types::pem::Error::Io(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Error::not_found(format!("there is no {}", path.display()))
        }
        error => Error::invalid(format!("{} cannot be read: {error}", path.display())),
    };
    let der = CertificateDer::from_pem_file(path).map_err(wrong)?;
    facts_of(&der).map_err(|error| error.context(path.display()))
}

fn refuse_taken(dir: &Path, name: &str) -> Result<()> {
    let taken = [certificate_path(dir, name), key_path(dir, name)].into_iter().find(|path| path.exists());
    let Some(path) = taken else { return Ok(()) };
    let remedy = match name {
        AUTHORITY => "a second authority goes into another directory".to_string(),
        name => format!("`holdfast certs renew --dir {} {name}` puts it aside and makes a new one", dir.display()),
    };
    Err(Error::new(ErrorCode::AlreadyExists, format!("{} is there already; {remedy}", path.display())))
}

/// Writes both files, the key first: a certificate without its key would look finished. Neither must be there.
fn write_pair(dir: &Path, name: &str, certificate: &str, key: &KeyPair) -> Result<()> {
    let (certificate_path, key_path) = (certificate_path(dir, name), key_path(dir, name));
    write_new(&key_path, &key.serialize_pem(), 0o600)?;
    if let Err(error) = write_new(&certificate_path, certificate, 0o644) {
        // The key of nothing would be in the way of the next try.
        let _ = fs::remove_file(&key_path);
        return Err(error);
    }
    sync_directory_of(&certificate_path)
}

/// Writes a file that is not there, with these permissions whatever the umask.
fn write_new(path: &Path, text: &str, mode: u32) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()
    };
    write().map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Error::new(ErrorCode::AlreadyExists, format!("{} is there already", path.display()))
        }
        _ => {
            let _ = fs::remove_file(path);
            Error::io(format!("writing {}", path.display()), error)
        }
    })
}

/// Copies an old pair to other names: `NAME.until-DATE.pem`, with a number behind it if that is taken. Until the new
/// pair is there the old one keeps its own names too, so that a crash leaves something that works.
fn keep_old(dir: &Path, name: &str, old: &Facts) -> Result<()> {
    let until = old.validity.until.format("%Y-%m-%d");
    let mut names = (1..1_000).map(|number| match number {
        1 => format!("{name}.until-{until}"),
        number => format!("{name}.until-{until}.{number}"),
    });
    let aside = names
        .find(|aside| !certificate_path(dir, aside).exists() && !key_path(dir, aside).exists())
        .ok_or_else(|| Error::invalid(format!("{} is full of old certificates of {name}", dir.display())))?;
    for (path, kept, mode) in [
        (key_path(dir, name), key_path(dir, &aside), 0o600),
        (certificate_path(dir, name), certificate_path(dir, &aside), 0o644),
    ] {
        match fs::read_to_string(&path) {
            Ok(text) => write_new(&kept, &text, mode)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io(format!("reading {}", path.display()), error)),
        }
    }
    Ok(())
}

/// Puts new content in the place of a file that was kept under another name, whole or not at all.
fn replace(path: &Path, text: &str, mode: u32) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
        file.write_all(text.as_bytes())?;
        file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(|error| Error::io(format!("writing {}", path.display()), error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::security::tls::ServerCertificate;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn an_authority_certifies_servers_and_nothing_is_written_over() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().join("certs");
        let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        let early = servers(&dir, &names(&["a.example"]), &[], 10).unwrap_err();
        assert!(early.code() == ErrorCode::NotFound && early.message().contains("certs init"), "{early}");
        init(&dir, 100).unwrap();
        assert_eq!((mode(&dir), mode(&dir.join("ca.key")), mode(&dir.join("ca.pem"))), (0o700, 0o600, 0o644));
        assert_eq!(init(&dir, 100).unwrap_err().code(), ErrorCode::AlreadyExists);
        let made = servers(&dir, &names(&["a.example", "10.0.0.1"]), &[], 10).unwrap();
        assert_eq!(made.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["a.example", "10.0.0.1"]);
        let made = servers(&dir, &names(&["::1"]), &names(&["localhost", "::1"]), 9_000).unwrap();
        assert_eq!(made[0].names, ["::1", "localhost"]);
        assert!(made[0].valid_until <= Utc::now() + TimeDelta::days(100), "it does not outlive its authority");
        for one in &made {
            let used = ServerCertificate::load(&one.certificate, &one.key).unwrap();
            assert_eq!((used.covers("localhost"), used.covers("[::1]")), (Ok(()), Ok(())));
            assert_eq!((mode(&one.key), mode(&one.certificate)), (0o600, 0o644));
        }
        // One name that is taken: nothing is made.
        let again = servers(&dir, &names(&["b.example", "a.example"]), &[], 10).unwrap_err();
        assert!(again.code() == ErrorCode::AlreadyExists && again.message().contains("certs renew"), "{again}");
        assert!(!dir.join("b.example.pem").exists());
        for wrong in ["", "https://a.example", "a.example:7400", "../x", "ca", "a b", ".hidden"] {
            assert_eq!(check_name(wrong).unwrap_err().code(), ErrorCode::InvalidRequest, "{wrong}");
        }
    }

    #[test]
    fn a_renewed_certificate_has_the_same_names_and_the_old_pair_is_kept() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path();
        init(dir, 1_000).unwrap();
        servers(dir, &["a.example".into()], &["10.0.0.1".into()], 10).unwrap();
        let old = fs::read(dir.join("a.example.key")).unwrap();
        for round in 1..=2 {
            let made = renew(dir, &["a.example".into()], 20).unwrap();
            assert_eq!(made[0].names, ["a.example", "10.0.0.1"]);
            let kept = fs::read_dir(dir).unwrap().flatten().map(|entry| entry.path());
            let kept: Vec<_> = kept.filter(|path| path.to_string_lossy().contains("until-")).collect();
            assert_eq!(kept.len(), 2 * round, "{kept:?}");
            assert!(kept.iter().any(|path| fs::read(path).unwrap() == old));
        }
        ServerCertificate::load(&dir.join("a.example.pem"), &dir.join("a.example.key")).unwrap();
        assert_eq!(renew(dir, &["b.example".into()], 20).unwrap_err().code(), ErrorCode::NotFound);
    }
}
