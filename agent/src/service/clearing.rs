//! The answer to a person who clears degraded mode over the control socket.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::commands::{Clearance, Commands};
use crate::degraded::IncidentRecord;

/// The outcome of a clearance.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct ClearAnswer {
    /// The record that was cleared. `None` when the agent was not degraded, or did not clear it.
    pub cleared: Option<IncidentRecord>,
    /// Why it was not cleared.
    pub error: Option<String>,
}

impl ClearAnswer {
    /// Leaves degraded mode. The work goes on when the future is dropped.
    pub(super) async fn of(commands: Arc<Commands>, clearance: Clearance) -> Self {
        let cleared = tokio::spawn(async move { commands.clear(&clearance).await }).await;
        match cleared {
            Ok(Ok(record)) => {
                let cleared = record.map(|record| IncidentRecord::clone(&record));
                Self { cleared, error: None }
            }
            Ok(Err(error)) => Self { cleared: None, error: Some(error.to_string()) },
            Err(error) => Self { cleared: None, error: Some(error.to_string()) },
        }
    }
}
