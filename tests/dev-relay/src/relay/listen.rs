//! The two ports.

use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_tungstenite::accept_hdr_async_with_config;
use tokio_tungstenite::tungstenite::handshake::server::{
    Callback, ErrorResponse, Request, Response,
};
use tokio_tungstenite::tungstenite::http::StatusCode;

use crate::config::Faults;
use crate::connection::{Connection, End, limits};
use crate::shared::Shared;
use crate::socket::SharedSocket;
use crate::{endpoint, http, operator};

/// The tasks behind the ports. Dropping them ends every connection.
#[derive(Debug)]
pub(super) struct Listeners {
    ws: JoinSet<()>,
    http: JoinSet<()>,
}

impl Listeners {
    pub(super) fn start(shared: &Arc<Shared>, ws: TcpListener, http: TcpListener) -> Self {
        let mut listeners = Self { ws: JoinSet::new(), http: JoinSet::new() };
        listeners.ws.spawn(accept(ws, Arc::clone(shared), websocket));
        listeners.http.spawn(accept(http, Arc::clone(shared), http::server::serve));
        listeners
    }

    /// Closes both ports; when it returns they can be bound again.
    pub(super) async fn stop(mut self) {
        self.ws.shutdown().await;
        self.http.shutdown().await;
    }
}

/// Accepts until it is dropped, and with it every connection it accepted.
async fn accept<F>(
    listener: TcpListener,
    shared: Arc<Shared>,
    serve: fn(Arc<Shared>, TcpStream) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    // Without it every small frame waits for the peer's delayed acknowledgement.
                    let _ = stream.set_nodelay(true);
                    connections.spawn(serve(Arc::clone(&shared), stream));
                }
                Err(error) => {
                    tracing::warn!("cannot accept a connection: {error}");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn websocket(shared: Arc<Shared>, stream: TcpStream) {
    let (number, faults) = shared.change(|state| {
        state.connections += 1;
        (state.connections, state.faults.clone())
    });
    let socket = SharedSocket::new(stream);
    if faults.refuse_connections {
        let _ = socket.reset_when_dropped();
        return;
    }
    if faults.mute_upgrades {
        std::future::pending::<()>().await;
    }
    let mut path = String::new();
    let upgrade = Upgrade { faults: &faults, path: &mut path };
    let accepted = accept_hdr_async_with_config(socket.clone(), upgrade, Some(limits())).await;
    let Ok(websocket) = accepted else { return };
    let connection = Connection::new(socket, websocket);
    let line = connection.line();
    match path.as_str() {
        "/v1/endpoint/connect" => {
            let work =
                async move |reader: &mut _| endpoint::serve(shared, number, line, reader).await;
            connection.run(work).await;
        }
        "/v1/operator" => {
            let work =
                async move |reader: &mut _| operator::server::serve(shared, line, reader).await;
            connection.run(work).await;
        }
        _ => {
            let reason: String = format!("unknown path: {path}").chars().take(100).collect();
            connection.run(async move |_: &mut _| End::Close(1008, reason)).await;
        }
    }
}

/// Looks at the request of an upgrade and answers it.
struct Upgrade<'a> {
    faults: &'a Faults,
    path: &'a mut String,
}

impl Callback for Upgrade<'_> {
    #[allow(clippy::result_large_err, reason = "the form tungstenite asks for")]
    fn on_request(self, request: &Request, response: Response) -> Result<Response, ErrorResponse> {
        request.uri().path().clone_into(self.path);
        match self.faults.upgrade_status.map(StatusCode::from_u16) {
            Some(Ok(status)) => {
                let mut refusal = ErrorResponse::new(None);
                *refusal.status_mut() = status;
                Err(refusal)
            }
            _ => Ok(response),
        }
    }
}
