//! The authorities that a client trusts: the system's, and those in a file.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use parking_lot::RwLock;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::types::{Error, Result, Sha256};

/// Judges servers' certificates by the authorities that are trusted now.
pub struct Trust {
    file: Option<PathBuf>,
    current: RwLock<Loaded>,
    provider: CryptoProvider,
}

struct Loaded {
    /// Of the file's bytes.
    digest: Option<Sha256>,
    /// Absent when nobody is trusted.
    verifier: Option<Arc<WebPkiServerVerifier>>,
}

impl Trust {
    /// Trusts the system's authorities and those in `file` (PEM).
    pub fn load(file: Option<&Path>) -> Result<Arc<Self>> {
        super::install_crypto_provider();
        let current = RwLock::new(read(file)?);
        Ok(Arc::new(Self { file: file.map(Path::to_path_buf), current, provider: ring::default_provider() }))
    }

    /// Reads the file again. Answers whether it has other authorities than before; a failure changes nothing.
    pub fn reload(&self) -> Result<bool> {
        let Some(file) = &self.file else { return Ok(false) };
        let new = read(Some(file))?;
        let mut current = self.current.write();
        let changed = new.digest != current.digest;
        if changed {
            *current = new;
        }
        Ok(changed)
    }

    /// The file beside the system's authorities.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The TLS side of a client.
    pub fn client_config(self: &Arc<Self>) -> rustls::ClientConfig {
        let mut config = rustls::ClientConfig::builder()
            .dangerous()
            .with_custom_certificate_verifier(self.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        config
    }
}

fn read(file: Option<&Path>) -> Result<Loaded> {
    let mut roots = RootCertStore::empty();
    let mut digest = None;
    if let Some(path) = file {
        let pem = std::fs::read(path).map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::IsADirectory => {
                Error::invalid(format!("there are no certificates in {}: {error}", path.display()))
            }
            _ => Error::io(format!("reading the certificates in {}", path.display()), error),
        })?;
        let wrong = |reason: String| Error::invalid(format!("{} {reason}", path.display()));
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|error| wrong(format!("is not PEM: {error}")))?;
            roots.add(certificate).map_err(|error| wrong(format!("has a certificate that is none: {error}")))?;
        }
        if roots.is_empty() {
            return Err(wrong("holds no PEM certificates".into()));
        }
        digest = Some(Sha256::of(&pem));
    }
    roots.add_parsable_certificates(of_the_system().iter().cloned());
    // A machine without authorities of its own trusts nobody; for HTTP without TLS that is no hindrance.
    let verifier = match roots.is_empty() {
        true => None,
        false => {
            let builder =
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::new(ring::default_provider()));
            Some(builder.build().map_err(|error| Error::internal("cannot set TLS up").with_source(error))?)
        }
    };
    Ok(Loaded { digest, verifier })
}

/// The system's authorities, read once.
fn of_the_system() -> &'static [CertificateDer<'static>] {
    static ROOTS: OnceLock<Vec<CertificateDer<'static>>> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs();
        for error in found.errors {
            log::debug!("an authority of the system cannot be read: {error}");
        }
        found.certs
    })
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        let verifier = self.current.read().verifier.clone();
        let verifier = verifier.ok_or(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trust").field("file", &self.file).finish_non_exhaustive()
    }
}
