//! A socket to whichever address answers first (RFC 8305).

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// Head start of an address before the next one is tried beside it (RFC 8305 5).
const HEAD_START: Duration = Duration::from_millis(250);

/// Bytes that the kernel takes for the peer before it asks to wait; it counts its own overhead on top.
const SEND_BUFFER: usize = 256 << 10;

/// An address that did not answer.
#[derive(Debug)]
pub struct Attempt {
    /// The address.
    pub address: SocketAddr,
    /// Why not.
    pub error: io::Error,
}

/// Tries the addresses one after another, each beside the ones before that have not failed yet;
/// `limit` is for each of them.
pub async fn first_to_answer(
    addresses: &[SocketAddr],
    limit: Duration,
) -> Result<TcpStream, Vec<Attempt>> {
    let mut waiting = interleaved(addresses).into_iter();
    let mut running = FuturesUnordered::new();
    let mut failed = Vec::new();
    loop {
        if let Some(address) = waiting.next() {
            running.push(attempt(address, limit));
        }
        tokio::select! {
            answer = running.next() => match answer {
                Some(Ok(stream)) => return Ok(stream),
                Some(Err(attempt)) => failed.push(attempt),
                None => return Err(failed),
            },
            () = sleep(HEAD_START), if waiting.len() > 0 => {}
        }
    }
}

async fn attempt(address: SocketAddr, limit: Duration) -> Result<TcpStream, Attempt> {
    let connected = match timeout(limit, TcpStream::connect(address)).await {
        Ok(connected) => connected,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    let ready = connected.and_then(|stream| prepare(&stream).map(|()| stream));
    ready.map_err(|error| Attempt { address, error })
}

/// Frames are small, and the peer waits for each. What the network has not taken yet is kept short, so that
/// an acknowledgement does not wait behind it.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    Ok(rustix::net::sockopt::set_socket_send_buffer_size(stream, SEND_BUFFER)?)
}

/// The families by turns, the first address's family first.
fn interleaved(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.iter().partition(|address| address.is_ipv6() == first_is_v6);
    let mut second = second.into_iter();
    let mut mixed = Vec::with_capacity(addresses.len());
    for address in first {
        mixed.push(address);
        mixed.extend(second.next());
    }
    mixed.extend(second);
    mixed
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn families_take_turns() {
        let given = addresses(&["1.1.1.1:1", "1.1.1.2:1", "1.1.1.3:1", "[::1]:1", "[::2]:1"]);
        let wanted = addresses(&["1.1.1.1:1", "[::1]:1", "1.1.1.2:1", "[::2]:1", "1.1.1.3:1"]);
        assert_eq!(interleaved(&given), wanted);
        assert_eq!(interleaved(&given[3..]), given[3..]);
        assert_eq!(interleaved(&[]), []);
    }

    #[tokio::test]
    async fn addresses_that_refuse_do_not_keep_the_next_from_being_tried() {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let open = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let limit = Duration::from_secs(10);
        let wanted = open.local_addr().unwrap();
        let stream = first_to_answer(&[closed, closed, wanted], limit).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), wanted);
        let failed = first_to_answer(&[closed, closed], limit).await.unwrap_err();
        assert_eq!(failed.len(), 2);
        assert!(failed.iter().all(|it| it.error.kind() == io::ErrorKind::ConnectionRefused));
        assert!(first_to_answer(&[], limit).await.unwrap_err().is_empty());
    }

    #[tokio::test]
    async fn an_address_that_says_nothing_is_overtaken() {
        // The first connection stays in this queue, so the second gets no answer.
        let silent = socket_with_full_queue().await;
        let open = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let wanted = open.local_addr().unwrap();
        let stream =
            first_to_answer(&[silent.address, wanted], Duration::from_secs(60)).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), wanted);
        let limit = Duration::from_millis(50);
        let failed = first_to_answer(&[silent.address], limit).await.unwrap_err();
        assert_eq!(failed[0].error.kind(), io::ErrorKind::TimedOut);
    }

    struct Silent {
        address: SocketAddr,
        _listener: TcpListener,
        _queued: Vec<TcpStream>,
    }

    async fn socket_with_full_queue() -> Silent {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queued = Vec::new();
        while let Ok(Ok(stream)) =
            timeout(Duration::from_millis(200), TcpStream::connect(address)).await
        {
            queued.push(stream);
        }
        Silent { address, _listener: listener, _queued: queued }
    }
}
