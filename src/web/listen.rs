//! Listening: addresses, TLS, and the refusal to serve strangers in clear text.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;

use structopt::StructOpt;

use crate::security::tls::ServerCertificate;
use crate::types::error::IoContext;
use crate::types::{Error, ErrorCode, Result};

// A doc comment on what is flattened would become the program's description.
#[allow(missing_docs, reason = "each option has its help")]
#[derive(Debug, Clone, StructOpt)]
pub struct ListenOptions {
    /// Address and port to listen on [default: 127.0.0.1, port 7400 for the name server, 7401 for storage servers]
    #[structopt(long)]
    pub listen: Option<SocketAddr>,
    /// Certificate chain (PEM); with --tls-key it turns TLS on
    #[structopt(long, requires = "tls-key")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of the certificate (PEM)
    #[structopt(long, requires = "tls-cert")]
    pub tls_key: Option<PathBuf>,
    /// Serve other machines without TLS: whoever can listen on the network can then read everything
    #[structopt(long)]
    pub insecure_http: bool,
}

impl ListenOptions {
    /// Takes the address, so that a taken port is known before anything else starts.
    pub fn bind(&self, default_port: u16) -> Result<TcpListener> {
        let listen = self.listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], default_port)));
        if !listen.ip().is_loopback() && self.tls_cert.is_none() && !self.insecure_http {
            return Err(Error::invalid(format!(
                "{} can be reached from other machines: give --tls-cert and --tls-key, or say --insecure-http",
                listen
            )));
        }
        TcpListener::bind(listen).map_err(|error| match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                let message = format!("port {} is in use by another program; choose another one", listen.port());
                Error::new(ErrorCode::AlreadyExists, message).with_source(error)
            }
            _ => Error::io(format!("listening on {listen}"), error),
        })
    }

    /// The certificate that is shown, if TLS is wanted.
    pub fn certificate(&self) -> Result<Option<Arc<ServerCertificate>>> {
        let (Some(chain), Some(key)) = (&self.tls_cert, &self.tls_key) else { return Ok(None) };
        ServerCertificate::load(chain, key).map(Some)
    }

    /// The URL that reaches a listener from this machine.
    pub fn local_url(&self, listener: &TcpListener) -> Result<String> {
        let address = listener.local_addr().io_context(|| "asking for the address".into())?;
        let scheme = if self.tls_cert.is_some() { "https" } else { "http" };
        Ok(format!("{scheme}://{address}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_not_served_in_clear_text() {
        let options = |listen: &str, insecure_http| ListenOptions {
            listen: Some(listen.parse().unwrap()),
            tls_cert: None,
            tls_key: None,
            insecure_http,
        };
        assert_eq!(options("0.0.0.0:0", false).bind(0).unwrap_err().code(), ErrorCode::InvalidRequest);
        assert!(options("0.0.0.0:0", true).bind(0).is_ok());
        let listener = options("127.0.0.1:0", false).bind(0).unwrap();
        let taken = listener.local_addr().unwrap().to_string();
        assert!(options(&taken, false).bind(0).unwrap_err().message().contains("in use"));
    }
}
