use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::relay::connect::testing::{Authority, echo_server, tls_echo_server};

/// Encrypts a connection to `address` as if it were `host`.
async fn encrypt(
    tls: &Tls,
    address: std::net::SocketAddr,
    host: &'static str,
) -> Result<Connection, TlsError> {
    let stream = TcpStream::connect(address).await.unwrap();
    tls.encrypt(Box::new(stream), &ServerName::try_from(host).unwrap()).await
}

fn problem(result: Result<Connection, TlsError>) -> CertificateProblem {
    match result.err().unwrap() {
        TlsError::Certificate { problem, .. } => problem,
        other => panic!("{other}"),
    }
}

fn trusting(dir: &tempfile::TempDir, authority: &Authority) -> Tls {
    let file = dir.path().join("ca.pem");
    std::fs::write(&file, &authority.pem).unwrap();
    Tls::new(Some(file)).unwrap()
}

#[tokio::test]
async fn a_certificate_of_the_named_authority_is_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let tls = trusting(&dir, &authority);
    let address = tls_echo_server(authority.server("relay.example", 2099)).await;
    let mut stream = encrypt(&tls, address, "relay.example").await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    let mut back = [0; 5];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"hello");
}

#[tokio::test]
async fn each_certificate_that_is_not_accepted_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let tls = trusting(&dir, &authority);
    let expired = tls_echo_server(authority.server("relay.example", 2021)).await;
    let found = problem(encrypt(&tls, expired, "relay.example").await);
    assert_eq!(found, CertificateProblem::Expired);

    let good = tls_echo_server(authority.server("relay.example", 2099)).await;
    let found = problem(encrypt(&tls, good, "other.example").await);
    assert!(
        matches!(&found, CertificateProblem::OtherName { names } if names.contains("relay.example")),
        "{found}"
    );

    let stranger = tls_echo_server(Authority::new().server("relay.example", 2099)).await;
    let found = problem(encrypt(&tls, stranger, "relay.example").await);
    assert_eq!(found, CertificateProblem::UnknownAuthority);
    assert!(found.to_string().contains("ca_file"));
}

#[tokio::test]
async fn an_authority_that_is_replaced_on_disk_is_believed_from_the_next_attempt() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (Authority::new(), Authority::new());
    let tls = trusting(&dir, &old);
    let address = tls_echo_server(new.server("relay.example", 2099)).await;
    problem(encrypt(&tls, address, "relay.example").await);
    std::fs::write(dir.path().join("ca.pem"), &new.pem).unwrap();
    assert!(encrypt(&tls, address, "relay.example").await.is_ok());
}

#[tokio::test]
async fn a_server_without_tls_is_named_as_that() {
    let dir = tempfile::tempdir().unwrap();
    let tls = trusting(&dir, &Authority::new());
    // What comes back is our own hello, which no server sends.
    let error = encrypt(&tls, echo_server().await, "relay.example").await.err().unwrap();
    assert!(matches!(&error, TlsError::Handshake { .. }), "{error}");
}

#[test]
fn a_file_without_certificates_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ca.pem");
    for content in [
        None,
        Some(""),
        Some("not PEM"),
        Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
    ] {
        if let Some(content) = content {
            std::fs::write(&file, content).unwrap();
        }
        let error = Tls::new(Some(file.clone())).unwrap_err();
        assert!(matches!(&error, TlsError::CaFile { path, .. } if *path == file), "{error}");
    }
}
