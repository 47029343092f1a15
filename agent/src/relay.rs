//! The connection to the relay: enrolment over HTTP, the WebSocket session, reconnecting, health.
