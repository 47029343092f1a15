use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::relay::connect::testing::{TestProxy, echo_server};

fn rules(variables: &'static [(&'static str, &'static str)]) -> Result<ProxyRules, ProxyError> {
    ProxyRules::from_variables(|name| {
        variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    })
}

fn proxy_for(rules: &ProxyRules, url: &str) -> Option<String> {
    let url = RelayUrl::parse(url, true).unwrap();
    rules.for_url(&url).map(|proxy| proxy.unwrap().to_string())
}

#[test]
fn the_environment_says_which_proxy_and_for_whom_none() {
    let rules = rules(&[
        ("HTTPS_PROXY", "http://secure.example:3128"),
        ("http_proxy", "plain.example:8080"),
        ("NO_PROXY", "inside.example, 10.0.0.0/8"),
    ])
    .unwrap();
    let found = |url| proxy_for(&rules, url);
    assert_eq!(found("wss://relay.example").as_deref(), Some("secure.example:3128"));
    assert_eq!(found("https://relay.example").as_deref(), Some("secure.example:3128"));
    assert_eq!(found("ws://relay.example").as_deref(), Some("plain.example:8080"));
    for direct in ["wss://inside.example", "wss://a.inside.example", "ws://10.1.2.3"] {
        assert_eq!(found(direct), None, "{direct}");
    }
    for local in ["ws://localhost:1", "wss://127.0.0.1", "ws://[::1]"] {
        assert_eq!(found(local), None, "{local}");
    }
}

#[test]
fn one_variable_can_serve_all_and_empty_ones_do_not_count() {
    let rules = rules(&[("HTTPS_PROXY", " "), ("https_proxy", ""), ("ALL_PROXY", "http://p:1")]);
    assert_eq!(proxy_for(&rules.unwrap(), "wss://relay.example").as_deref(), Some("p:1"));
    assert_eq!(proxy_for(&ProxyRules::none(), "wss://relay.example"), None);
}

#[test]
fn what_names_no_proxy_is_an_error_that_keeps_the_password() {
    let error = rules(&[("HTTPS_PROXY", "htp://user:hidden@p:1")]).unwrap_err();
    assert!(matches!(error, ProxyError::Unusable { variable: "HTTPS_PROXY" }), "{error}");
    assert!(!format!("{error} {error:?}").contains("hidden"));
    let socks = rules(&[("ALL_PROXY", "socks5://p:1080")]).unwrap();
    let url = RelayUrl::parse("wss://relay.example", false).unwrap();
    let error = socks.for_url(&url).unwrap().unwrap_err();
    assert!(matches!(&error, ProxyError::Unsupported { .. }), "{error}");
}

async fn tunnel(proxy: &TestProxy, credentials: &str) -> Result<Connection, ProxyError> {
    let value = format!("http://{credentials}{}", proxy.address);
    let rules = ProxyRules::from_variables(|name| (name == "ALL_PROXY").then(|| value.clone()));
    let url = RelayUrl::parse("wss://relay.example:8443", false).unwrap();
    let stream = TcpStream::connect(proxy.address).await.unwrap();
    let found = rules.unwrap().for_url(&url).unwrap().unwrap();
    found.tunnel(Box::new(stream), &url.authority()).await
}

#[tokio::test]
async fn a_tunnel_carries_bytes_both_ways_and_the_proxys_password_goes_no_further() {
    let proxy =
        TestProxy::start("HTTP/1.1 200 Connection established\r\n\r\n", echo_server().await);
    let proxy = proxy.await;
    let mut stream = tunnel(&proxy, "user:p%40ss@").await.unwrap();
    stream.write_all(b"through").await.unwrap();
    let mut back = [0; 7];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"through");
    let head = proxy.heads().remove(0).to_lowercase();
    assert!(head.starts_with("connect relay.example:8443 http/1.1\r\n"), "{head}");
    assert!(head.contains("host: relay.example:8443\r\n"), "{head}");
    assert!(head.contains(&"proxy-authorization: Basic dXNlcjpwQHNz\r\n".to_lowercase()), "{head}");
}

#[tokio::test]
async fn a_refusal_says_its_status_and_what_to_do() {
    let nowhere = "127.0.0.1:1".parse().unwrap();
    let answers = [
        ("HTTP/1.1 407 Auth\r\ncontent-length: 0\r\n\r\n", "407", "user:password"),
        ("HTTP/1.1 403 No\r\ncontent-length: 0\r\n\r\n", "403", "NO_PROXY"),
        ("HTTP/1.1 502 Bad\r\ncontent-length: 0\r\n\r\n", "502", "cannot reach"),
    ];
    for (answer, status, advice) in answers {
        let error = tunnel(&TestProxy::start(answer, nowhere).await, "").await.err().unwrap();
        let text = error.to_string();
        assert!(text.contains(status) && text.contains(advice), "{text}");
    }
}

#[tokio::test]
async fn what_is_no_proxy_is_broken_not_waited_for() {
    let nowhere = "127.0.0.1:1".parse().unwrap();
    let proxy = TestProxy::start("SSH-2.0-x\r\n", nowhere).await;
    let error = tunnel(&proxy, "").await.err().unwrap();
    assert!(matches!(&error, ProxyError::Broken { .. }), "{error}");
    // A head without an end is not read for ever.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n").await.unwrap();
        while stream.write_all(b"x-filler: xxxxxxxxxxxxxxxx\r\n").await.is_ok() {}
    });
    let flooding = TestProxy { address, heads: Arc::default() };
    let error = tunnel(&flooding, "").await.err().unwrap();
    assert!(matches!(&error, ProxyError::Broken { .. }), "{error}");
}
