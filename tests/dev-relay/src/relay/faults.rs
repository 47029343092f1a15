//! What a relay, or the network in front of it, does to an endpoint on a bad day.

use std::time::Duration;

use protocol::timestamp::Timestamp;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::listen::Listeners;
use super::{DevRelay, StartError};
use crate::config::Faults;
use crate::connection::{Line, Order, Outgoing};
use crate::dispatch::DispatchError;
use crate::random;

/// Longest wait for connections to end when the relay goes down.
const GOING_DOWN: Duration = Duration::from_secs(3);

/// Something sent to an endpoint that need not be protocol.
#[derive(Debug, Clone)]
pub enum Raw {
    /// A text frame.
    Text(String),
    /// A binary frame.
    Binary(Vec<u8>),
    /// A WebSocket ping.
    Ping(Vec<u8>),
    /// A close frame; the TCP connection stays open until the endpoint ends it.
    Close(u16, String),
    /// Bytes on the TCP connection, outside any frame.
    Bytes(Vec<u8>),
}

/// How connections end when the relay goes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Farewell {
    /// Close 1001 `server shutdown`.
    Goodbye,
    /// A TCP reset, as from a process that was killed.
    Reset,
}

impl DevRelay {
    /// Changes how the relay misbehaves from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.shared.change(|state| state.faults = faults);
    }

    /// The faults in force.
    pub fn faults(&self) -> Faults {
        self.shared.state().faults.clone()
    }

    /// Sends something to the endpoint's session as it is. Commands named in a text are entered as
    /// sent once more, so that the answers break no rule.
    pub fn send_raw(&self, endpoint_id: &str, raw: Raw) -> Result<(), DispatchError> {
        let outgoing = match raw {
            Raw::Text(text) => return self.send_frame(endpoint_id, text),
            Raw::Binary(bytes) => Outgoing::Message(Message::binary(bytes)),
            Raw::Ping(bytes) => Outgoing::Message(Message::Ping(bytes.into())),
            Raw::Close(code, reason) => Outgoing::Message(Message::Close(Some(CloseFrame {
                code: CloseCode::from(code),
                reason: reason.into(),
            }))),
            Raw::Bytes(bytes) => Outgoing::Bytes(bytes),
        };
        if self.line(endpoint_id)?.send(outgoing) {
            Ok(())
        } else {
            Err(DispatchError::QueueFull(endpoint_id.to_owned()))
        }
    }

    /// Asks the endpoint for its health; the answer comes as a `HealthPong` with the identifier
    /// this returns.
    pub fn health_ping(&self, endpoint_id: &str) -> Result<String, DispatchError> {
        let session = self.find_session(endpoint_id)?;
        let ping_id = random::uuid();
        let ping = json!({
            "type": "HealthPing",
            "session_id": session.info.session_id,
            "ts": Timestamp::now(),
            "ping_id": ping_id,
        });
        self.shared.change(|state| {
            state.pings.insert(ping_id.clone(), session.info.session_id.clone());
        });
        session.line.send_text(ping.to_string());
        Ok(ping_id)
    }

    /// Resets the endpoint's TCP connection.
    pub fn drop_connection(&self, endpoint_id: &str) -> Result<(), DispatchError> {
        self.line(endpoint_id)?.order(Order::Reset);
        Ok(())
    }

    /// Closes the endpoint's session with a code and a reason.
    pub fn close_session(
        &self,
        endpoint_id: &str,
        code: u16,
        reason: &str,
    ) -> Result<(), DispatchError> {
        self.line(endpoint_id)?.order(Order::Close(code, reason.to_owned()));
        Ok(())
    }

    /// Closes the endpoint's session as if another connection had taken its place.
    pub fn replace_session(&self, endpoint_id: &str) -> Result<(), DispatchError> {
        self.close_session(endpoint_id, 1000, "replaced by reconnect")
    }

    /// Reads nothing from the endpoint any more, pings included: a peer that is there and dead.
    pub fn stop_reading(&self, endpoint_id: &str) -> Result<(), DispatchError> {
        self.line(endpoint_id)?.order(Order::StopReading);
        Ok(())
    }

    /// Reads from the endpoint again.
    pub fn resume_reading(&self, endpoint_id: &str) -> Result<(), DispatchError> {
        self.line(endpoint_id)?.order(Order::Run);
        Ok(())
    }

    /// Ends every connection and closes both ports. Commands under way are forgotten; enrollments
    /// stay.
    pub async fn go_down(&self, farewell: Farewell) {
        let Some(listeners) = self.listeners.lock().await.take() else { return };
        let lines: Vec<Line> = {
            let state = self.shared.state();
            state.sessions.values().map(|session| session.line.clone()).collect()
        };
        for line in &lines {
            line.order(match farewell {
                Farewell::Goodbye => Order::Close(1001, "server shutdown".to_owned()),
                Farewell::Reset => Order::Reset,
            });
        }
        let gone = async {
            for line in &lines {
                line.gone().await;
            }
        };
        // Whoever does not go in time is cut off with the ports.
        let _ = tokio::time::timeout(GOING_DOWN, gone).await;
        listeners.stop().await;
        self.shared.change(|state| {
            state.sessions.clear();
            state.pings.clear();
            state.ledger.forget_all(std::time::Instant::now());
        });
    }

    /// Opens both ports again, the same as before.
    pub async fn come_up(&self) -> Result<(), StartError> {
        let mut listeners = self.listeners.lock().await;
        if listeners.is_none() {
            let ws = listen(self.ws).await?;
            let http = listen(self.http).await?;
            *listeners = Some(Listeners::start(&self.shared, ws, http));
        }
        Ok(())
    }

    /// Goes down, stays down for a while, and comes up again.
    pub async fn restart(&self, farewell: Farewell, down: Duration) -> Result<(), StartError> {
        self.go_down(farewell).await;
        tokio::time::sleep(down).await;
        self.come_up().await
    }

    fn line(&self, endpoint_id: &str) -> Result<Line, DispatchError> {
        Ok(self.find_session(endpoint_id)?.line)
    }
}

async fn listen(address: std::net::SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::Listen { address, source })
}
