//! What systemd is told. Without systemd there is no listener, and nothing happens.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tracing::debug;

use super::status::StatusSource;

/// The agent serves.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The agent is on its way out.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Shows signs of life for as long as the runtime makes progress, and says how things are.
pub(super) async fn keep_watchdog_calm(source: Arc<StatusSource>) {
    let watchdog = sd_notify::watchdog_enabled();
    let every = watchdog.map_or(Duration::from_secs(30), |limit| limit / 2);
    loop {
        let status = source.status();
        let text = match status.trouble {
            Some(trouble) => trouble,
            None => format!("{}, {} in flight", status.link.state, status.in_flight),
        };
        tell(&[NotifyState::Status(&text), NotifyState::Watchdog]);
        tokio::time::sleep(every).await;
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!(%error, "systemd cannot be told");
    }
}
