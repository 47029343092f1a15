//! Encryption, and whose certificates are believed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::{CertificateError, ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio_rustls::TlsConnector;

use super::Connection;

/// Why there is no encrypted connection.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file with certificate authorities is of no use.
    #[error("{path} is not a PEM file with certificates: {detail}", path = path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// There is no certificate authority to trust.
    #[error(
        "this host has no certificate authorities ({detail}); install its ca-certificates package, \
         or name a file with the relay's authority as ca_file"
    )]
    NoAuthorities {
        /// Where was looked.
        detail: String,
    },
    /// There are certificate authorities, but this process may not read them.
    #[error(
        "this host's certificate authorities cannot be read ({detail}); the agent's own confinement \
         hides files that have moved since it started: restart it"
    )]
    AuthoritiesHidden {
        /// What could not be read.
        detail: String,
    },
    /// The certificate is not believed.
    #[error("the certificate of {host} is not accepted: {problem}")]
    Certificate {
        /// Who presented it.
        host: String,
        /// Why not.
        problem: CertificateProblem,
    },
    /// The other side does not speak TLS, or none that is spoken here.
    #[error("no TLS with {host}: {detail}; check that its port speaks TLS 1.2 or 1.3")]
    Handshake {
        /// Who.
        host: String,
        /// What went wrong.
        detail: String,
    },
}

/// What is wrong with a certificate, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateProblem {
    /// It is past its end.
    #[error("it has expired; renew it, or correct this host's clock")]
    Expired,
    /// The certificate is not valid yet.
    #[error("it is not valid yet; correct this host's clock")]
    NotValidYet,
    /// It is for other names.
    #[error("it is for other names ({names}); use one of them in the relay's URL")]
    OtherName {
        /// The names it is for.
        names: String,
    },
    /// No trusted certificate authority has signed the certificate.
    #[error(
        "no authority known here has signed it; where the relay has an authority of its own, name \
         that one's certificate as ca_file"
    )]
    UnknownAuthority,
    /// It was withdrawn.
    #[error("it was revoked; the relay needs a new one")]
    Revoked,
    /// The handshake failed in another way.
    #[error("{0}")]
    Other(String),
}

impl From<&CertificateError> for CertificateProblem {
    fn from(error: &CertificateError) -> Self {
        match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Self::NotValidYet
            }
            CertificateError::NotValidForName => Self::OtherName { names: "unknown".to_owned() },
            CertificateError::NotValidForNameContext { presented, .. } => {
                let names: Vec<_> = presented.iter().take(8).map(String::as_str).collect();
                Self::OtherName { names: names.join(", ") }
            }
            // The second: an authority of the same name has another key.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                Self::UnknownAuthority
            }
            CertificateError::Revoked => Self::Revoked,
            other => Self::Other(other.to_string()),
        }
    }
}

/// Encrypts connections.
#[derive(Debug)]
pub struct Tls {
    ca_file: Option<PathBuf>,
    /// Made when it is first needed, and again after a certificate was not accepted: authorities
    /// are added and replaced under a process that runs for months.
    config: Mutex<Option<Arc<ClientConfig>>>,
}

impl Tls {
    /// Checks `ca_file`.
    pub fn new(ca_file: Option<PathBuf>) -> Result<Self, TlsError> {
        if let Some(path) = &ca_file {
            authorities_of(path)?;
        }
        Ok(Self { ca_file, config: Mutex::new(None) })
    }

    /// A client's handshake with `host`.
    pub async fn encrypt(
        &self,
        stream: Connection,
        host: &ServerName<'static>,
    ) -> Result<Connection, TlsError> {
        let connector = TlsConnector::from(self.config()?);
        match connector.connect(host.clone(), stream).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(self.explain(&error, host)),
        }
    }

    fn explain(&self, error: &io::Error, host: &ServerName<'_>) -> TlsError {
        let host = host.to_str().into_owned();
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
        if let Some(rustls::Error::InvalidCertificate(problem)) = cause {
            *self.config.lock().unwrap_or_else(PoisonError::into_inner) = None;
            return TlsError::Certificate { host, problem: problem.into() };
        }
        TlsError::Handshake { host, detail: error.to_string() }
    }

    fn config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let mut kept = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = &*kept {
            return Ok(config.clone());
        }
        let config = Arc::new(self.make_config()?);
        *kept = Some(config.clone());
        Ok(config)
    }

    fn make_config(&self) -> Result<ClientConfig, TlsError> {
        let mut roots = RootCertStore::empty();
        let system = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(system.certs);
        if let Some(path) = &self.ca_file {
            for authority in authorities_of(path)? {
                roots.add(authority).map_err(|e| ca_file_error(path, &e))?;
            }
        }
        if roots.is_empty() {
            let errors: Vec<String> = system.errors.iter().map(ToString::to_string).collect();
            let detail =
                if errors.is_empty() { "none found".to_owned() } else { errors.join("; ") };
            return Err(if system.errors.iter().any(is_denied) {
                TlsError::AuthoritiesHidden { detail }
            } else {
                TlsError::NoAuthorities { detail }
            });
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|e| TlsError::NoAuthorities { detail: e.to_string() })?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// The certificates in a PEM file, at least one.
fn authorities_of(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|e| ca_file_error(path, &e))?;
    let mut store = RootCertStore::empty();
    for authority in &found {
        store.add(authority.clone()).map_err(|e| ca_file_error(path, &e))?;
    }
    if store.is_empty() { Err(ca_file_error(path, &"it holds none")) } else { Ok(found) }
}

fn ca_file_error(path: &Path, detail: &dyn std::fmt::Display) -> TlsError {
    TlsError::CaFile { path: path.to_owned(), detail: detail.to_string() }
}

fn is_denied(error: &rustls_native_certs::Error) -> bool {
    match &error.kind {
        rustls_native_certs::ErrorKind::Io { inner, .. } => {
            inner.kind() == io::ErrorKind::PermissionDenied
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
