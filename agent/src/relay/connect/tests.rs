use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::testing::{Authority, TestProxy, echo_server, tls_echo_server};
use super::*;

fn config(ca_file: Option<PathBuf>, proxies: ProxyRules) -> ConnectorConfig {
    ConnectorConfig { ca_file, proxies, step_limit: Duration::from_secs(10) }
}

fn direct() -> Connector {
    Connector::new(config(None, ProxyRules::none())).unwrap()
}

fn url(text: &str) -> RelayUrl {
    RelayUrl::parse(text, true).unwrap()
}

async fn assert_echoes(stream: &mut Connection) {
    stream.write_all(b"ping").await.unwrap();
    let mut back = [0; 4];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"ping");
}

#[tokio::test]
async fn a_plain_relay_on_this_host_is_reached_by_name() {
    let address = echo_server().await;
    let url = url(&format!("ws://localhost:{}", address.port()));
    assert_echoes(&mut direct().connect(&url).await.unwrap()).await;
}

#[tokio::test]
async fn tls_runs_through_a_proxy_and_the_proxy_looks_the_name_up() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let ca_file = dir.path().join("ca.pem");
    std::fs::write(&ca_file, &authority.pem).unwrap();
    let relay = tls_echo_server(authority.server("relay.invalid", 2099)).await;
    let proxy = TestProxy::start("HTTP/1.1 200 OK\r\n\r\n", relay).await;
    let value = format!("http://{}", proxy.address);
    let rules = |no: &'static str| {
        ProxyRules::from_variables(|name| match name {
            "HTTPS_PROXY" => Some(value.clone()),
            "NO_PROXY" => Some(no.to_owned()),
            _ => None,
        })
        .unwrap()
    };
    let url = url("wss://relay.invalid:8443");
    let connector = Connector::new(config(Some(ca_file), rules("other.example"))).unwrap();
    assert_echoes(&mut connector.connect(&url).await.unwrap()).await;
    assert_eq!(proxy.heads().len(), 1);

    let connector = Connector::new(config(None, rules("relay.invalid"))).unwrap();
    let error = connector.connect(&url).await.err().unwrap();
    assert!(matches!(&error, ConnectError::Name(_)), "{error}");
    assert_eq!(proxy.heads().len(), 1);
}

#[tokio::test]
async fn a_refused_connection_names_every_address_and_its_error() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = direct().connect(&url(&format!("ws://{closed}"))).await.err().unwrap();
    let text = error.to_string();
    assert!(text.contains(&format!("{closed} gave `Connection refused")), "{text}");
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let ca_file = dir.path().join("ca.pem");
    std::fs::write(&ca_file, Authority::new().pem).unwrap();
    let mut config = config(Some(ca_file), ProxyRules::none());
    config.step_limit = Duration::from_millis(100);
    let connector = Connector::new(config).unwrap();
    let error = connector.connect(&url(&format!("wss://{address}"))).await.err().unwrap();
    assert!(
        matches!(&error, ConnectError::TooSlow { step, .. } if step.contains("TLS")),
        "{error}"
    );
}
