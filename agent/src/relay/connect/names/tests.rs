use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use hickory_resolver::config::{ConnectionConfig, NameServerConfig};
use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::{RData, Record};
use tokio::net::UdpSocket;

use super::*;

/// A name server that knows one name and notes what it is asked.
struct Server {
    names: Names,
    asked: Arc<Mutex<Vec<String>>>,
}

async fn server(name: &'static str, addresses: &'static [&'static str]) -> Server {
    server_silent_for(None, name, addresses).await
}

/// As [`server`], but questions of one type are never answered.
async fn server_silent_for(
    dropped: Option<RecordType>,
    name: &'static str,
    addresses: &'static [&'static str],
) -> Server {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noted = asked.clone();
    tokio::spawn(async move {
        let mut buffer = [0; 1500];
        while let Ok((size, from)) = socket.recv_from(&mut buffer).await {
            let mut answer = Message::from_vec(&buffer[..size]).unwrap().into_response();
            let query = answer.queries[0].clone();
            noted.lock().unwrap().push(query.name().to_string());
            if Some(query.query_type()) == dropped {
                continue;
            }
            if query.name().to_string() == format!("{name}.") {
                for address in addresses {
                    let data = RData::from(address.parse::<IpAddr>().unwrap());
                    if data.record_type() == query.query_type() {
                        answer.add_answer(Record::from_rdata(query.name().clone(), 60, data));
                    }
                }
            } else {
                answer.metadata.response_code = ResponseCode::NXDomain;
            }
            socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
        }
    });
    Server { names: names_at(address), asked }
}

fn names_at(address: SocketAddr) -> Names {
    let mut connection = ConnectionConfig::udp();
    connection.port = address.port();
    let server = NameServerConfig::new(address.ip(), true, vec![connection]);
    let mut options = ResolverOpts::default();
    options.timeout = Duration::from_millis(200);
    options.attempts = 1;
    Names::of_server(ResolverConfig::from_parts(None, Vec::new(), vec![server]), options)
}

async fn lookup(names: &Names, host: &'static str) -> Result<Vec<SocketAddr>, NameError> {
    names.lookup(&ServerName::try_from(host).unwrap(), 443).await
}

#[tokio::test]
async fn a_name_has_the_addresses_of_both_families() {
    let server = server("relay.example", &["192.0.2.1", "192.0.2.2", "2001:db8::1"]).await;
    let mut found = lookup(&server.names, "relay.example").await.unwrap();
    found.sort();
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(found, ["192.0.2.1:443", "192.0.2.2:443", "[2001:db8::1]:443"]);
}

#[tokio::test]
async fn a_name_that_does_not_exist_differs_from_a_server_that_does_not_answer() {
    let server = server("relay.example", &[]).await;
    for name in ["other.example", "relay.example"] {
        let error = lookup(&server.names, name).await.unwrap_err();
        assert!(matches!(&error, NameError::NotFound { .. }), "{error}");
    }
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let error = lookup(&names_at(silent.local_addr().unwrap()), "relay.example").await.unwrap_err();
    assert!(matches!(&error, NameError::NoAnswer { .. }), "{error}");
    assert!(error.to_string().contains("resolv.conf"), "{error}");
}

#[tokio::test]
async fn a_server_that_drops_one_type_of_question_costs_a_moment_and_no_connection() {
    for (dropped, address) in
        [(RecordType::AAAA, "192.0.2.1:443"), (RecordType::A, "[2001:db8::1]:443")]
    {
        let mut server =
            server_silent_for(Some(dropped), "relay.example", &["192.0.2.1", "2001:db8::1"]).await;
        // Three tries of five seconds are what the lost answer would cost.
        let (_, options) = server.names.servers.as_mut().unwrap();
        (options.timeout, options.attempts) = (Duration::from_secs(5), 2);
        let found =
            tokio::time::timeout(Duration::from_secs(4), lookup(&server.names, "relay.example"));
        let found = found.await.expect("the other family is not waited for").unwrap();
        assert_eq!(found, [address.parse().unwrap()], "{dropped}");
    }
}

#[tokio::test]
async fn a_lost_answer_is_no_proof_that_there_is_no_address() {
    let server = server_silent_for(Some(RecordType::AAAA), "relay.example", &[]).await;
    let error = lookup(&server.names, "relay.example").await.unwrap_err();
    assert!(matches!(&error, NameError::NoAnswer { .. }), "{error}");
}

#[tokio::test]
async fn this_host_and_addresses_are_never_asked_for() {
    let server = server("localhost", &["192.0.2.66"]).await;
    let found = lookup(&server.names, "localhost").await.unwrap();
    assert!(found.iter().all(|address| address.ip().is_loopback()), "{found:?}");
    let found = lookup(&server.names, "192.0.2.7").await.unwrap();
    assert_eq!(found, ["192.0.2.7:443".parse().unwrap()]);
    assert!(server.asked.lock().unwrap().is_empty());
    // The positive control of that emptiness.
    lookup(&server.names, "other.example").await.unwrap_err();
    assert!(!server.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn the_hosts_file_comes_first() {
    let text = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    let listed = text.lines().filter(|line| !line.trim_start().starts_with('#')).find_map(|line| {
        let mut words = line.split_whitespace();
        let address: IpAddr = words.next()?.parse().ok()?;
        let name = words.find(|name| !name.ends_with("localhost") && !name.starts_with("ip6"))?;
        Some((address, name.to_owned()))
    });
    let Some((address, name)) = listed else {
        return;
    };
    let server = server("nothing.example", &[]).await;
    let host = ServerName::try_from(name).unwrap();
    let found = server.names.lookup(&host, 443).await.unwrap();
    assert!(found.contains(&SocketAddr::new(address, 443)), "{found:?}");
    assert!(server.asked.lock().unwrap().is_empty());
}
