use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Result<RelayUrl, UrlError> {
    RelayUrl::parse(text, false)
}

#[test]
fn a_bare_url_gets_port_and_path_of_its_purpose() {
    let url = parse("wss://Relay.Example").unwrap();
    assert_eq!(url.full(Purpose::Session), "wss://relay.example/v1/endpoint/connect");
    assert_eq!(url.full(Purpose::Enrollment), "https://relay.example/v1/endpoint/enroll");
    let url = parse("http://127.0.0.1:8444/").unwrap();
    assert_eq!(url.full(Purpose::Enrollment), "http://127.0.0.1:8444/v1/endpoint/enroll");
    assert_eq!(url.to_string(), "http://127.0.0.1:8444");
}

#[test]
fn only_a_port_of_its_own_is_named_in_the_host_header() {
    for (text, header, authority) in [
        ("wss://relay.example", "relay.example", "relay.example:443"),
        ("https://relay.example:443", "relay.example", "relay.example:443"),
        ("wss://relay.example:80", "relay.example:80", "relay.example:80"),
        ("ws://localhost:80", "localhost", "localhost:80"),
        ("ws://localhost:443", "localhost:443", "localhost:443"),
        ("wss://[2001:db8::1]", "[2001:db8::1]", "[2001:db8::1]:443"),
        ("wss://[2001:db8::1]:8443", "[2001:db8::1]:8443", "[2001:db8::1]:8443"),
    ] {
        let url = parse(text).unwrap();
        assert_eq!((url.host_header(), url.authority()), (header.into(), authority.into()));
    }
}

#[test]
fn a_path_is_kept_to_the_letter() {
    let url = parse("https://relay.example/prefix/v1/endpoint/enroll").unwrap();
    assert_eq!(url.path(Purpose::Enrollment), "/prefix/v1/endpoint/enroll");
    assert_eq!(url.to_string(), "https://relay.example/prefix/v1/endpoint/enroll");
}

#[test]
fn plain_connections_stay_on_this_host_unless_allowed() {
    for text in ["ws://localhost:1", "ws://a.localhost", "ws://127.9.9.9", "http://[::1]:8444"] {
        assert!(parse(text).unwrap().is_loopback(), "{text}");
    }
    for text in ["ws://relay.example", "http://10.0.0.1", "ws://notlocalhost", "ws://[2001:db8::1]"]
    {
        assert!(matches!(parse(text), Err(UrlError::PlainOffLoopback { .. })), "{text}");
        assert!(!RelayUrl::parse(text, true).unwrap().is_secure());
    }
    assert_eq!(parse("http://[::1]:8444").unwrap().authority(), "[::1]:8444");
}

#[test]
fn what_is_not_a_relays_url_is_refused_by_name() {
    let refused = |text: &str| parse(text).unwrap_err();
    assert!(matches!(refused("relay.example"), UrlError::Scheme { .. }));
    assert!(matches!(refused("ftp://relay.example"), UrlError::Scheme { .. }));
    assert!(matches!(refused(""), UrlError::Scheme { .. }));
    assert_eq!(refused("wss://user:secret@relay.example"), UrlError::Credentials);
    assert_eq!(refused("wss://relay.example/?token=1"), UrlError::AfterPath);
    assert_eq!(refused("wss://relay.example/#x"), UrlError::AfterPath);
    assert!(matches!(refused("wss://relay.example:0"), UrlError::Malformed { .. }));
    assert!(matches!(refused("wss://relay.example:65536"), UrlError::Malformed { .. }));
    assert!(matches!(refused("wss://r\u{e9}lay.example"), UrlError::Malformed { .. }));
    assert!(matches!(refused("wss://-a..b"), UrlError::Host { .. }));
    assert!(matches!(refused(&format!("wss://{}", "a".repeat(3000))), UrlError::Malformed { .. }));
}

proptest! {
    #[test]
    fn any_text_is_taken_or_refused_and_what_is_taken_reads_back(text in "(wss?|https?|x)(://)?[ -~\u{e9}]{0,40}") {
        if let Ok(url) = RelayUrl::parse(&text, true) {
            prop_assert_eq!(RelayUrl::parse(&url.to_string(), true).unwrap(), url);
        }
    }
}
