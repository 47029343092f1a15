//! Questions to the guest, and what the answers mean.

use std::time::Duration;

use guest::wire::{GuestQuery, GuestResponse, MAX_PROCESSES, QueryKind};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use super::channel::ChannelError;
use super::{Process, QueryAnswer};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OpenFdCount {
    open_fd_count: u64,
    pid1_open_fd_count: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MemUsage {
    bytes_used: u64,
    bytes_total: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProcessList {
    processes: Vec<Process>,
}

/// How long the guest may take to answer.
pub fn limit(kind: QueryKind) -> Duration {
    match kind {
        QueryKind::OpenFdCount | QueryKind::MemUsage => Duration::from_secs(1),
        QueryKind::ProcessList => Duration::from_secs(5),
    }
}

/// A question with an id of its own.
pub fn ask(kind: QueryKind) -> GuestQuery {
    GuestQuery {
        query_id: Uuid::new_v4().to_string(),
        query_kind: kind,
        // Every present time has this form.
        ts: OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default(),
    }
}

/// What an answer says; an answer of another form breaks the protocol.
pub fn understand(response: &GuestResponse) -> Result<QueryAnswer, ChannelError> {
    match response.query_kind {
        QueryKind::OpenFdCount => {
            let OpenFdCount { open_fd_count, pid1_open_fd_count } = read(&response.result)?;
            Ok(QueryAnswer::OpenFdCount { open_fd_count, pid1_open_fd_count })
        }
        QueryKind::MemUsage => {
            let MemUsage { bytes_used, bytes_total } = read(&response.result)?;
            Ok(QueryAnswer::MemUsage { bytes_used, bytes_total })
        }
        QueryKind::ProcessList => {
            let ProcessList { processes } = read(&response.result)?;
            if processes.len() > MAX_PROCESSES {
                let count = processes.len();
                return Err(broken(format!("it lists {count} processes, over {MAX_PROCESSES}")));
            }
            Ok(QueryAnswer::ProcessList(processes))
        }
    }
}

fn read<T: DeserializeOwned>(result: &Value) -> Result<T, ChannelError> {
    T::deserialize(result).map_err(|e| broken(format!("an answer has another form: {e}")))
}

fn broken(detail: String) -> ChannelError {
    ChannelError::Protocol { detail }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(kind: QueryKind, result: Value) -> Result<QueryAnswer, &'static str> {
        let (query_id, ts) = ("q".into(), String::new());
        let response = GuestResponse { query_id, query_kind: kind, result, ts };
        understand(&response).map_err(|e| e.code())
    }

    #[test]
    fn answers_are_understood() {
        assert_eq!(
            answer(QueryKind::OpenFdCount, json!({"open_fd_count": 9, "pid1_open_fd_count": 5})),
            Ok(QueryAnswer::OpenFdCount { open_fd_count: 9, pid1_open_fd_count: 5 })
        );
        assert_eq!(
            answer(QueryKind::MemUsage, json!({"bytes_used": 1, "bytes_total": 2})),
            Ok(QueryAnswer::MemUsage { bytes_used: 1, bytes_total: 2 })
        );
        let init = Process { name: "init".into(), pid: 1 };
        assert_eq!(
            answer(QueryKind::ProcessList, json!({"processes": [{"name": "init", "pid": 1}]})),
            Ok(QueryAnswer::ProcessList(vec![init]))
        );
    }

    #[test]
    fn other_forms_break_the_protocol() {
        let crowd = vec![json!({"name": "x", "pid": 2}); MAX_PROCESSES + 1];
        for (kind, result) in [
            (QueryKind::OpenFdCount, json!({"open_fd_count": -1, "pid1_open_fd_count": 5})),
            (QueryKind::OpenFdCount, json!({"error": "unknown query_kind"})),
            (QueryKind::MemUsage, json!({"bytes_used": 1, "bytes_total": 2, "extra": 3})),
            (QueryKind::MemUsage, json!(null)),
            (QueryKind::ProcessList, json!({"processes": crowd})),
        ] {
            assert_eq!(answer(kind, result), Err("SANDBOX_VSOCK_PROTOCOL_ERROR"));
        }
    }

    #[test]
    fn every_question_has_its_own_id_and_the_time() {
        let (first, second) = (ask(QueryKind::MemUsage), ask(QueryKind::MemUsage));
        assert_ne!(first.query_id, second.query_id);
        assert!(OffsetDateTime::parse(&first.ts, &Rfc3339).is_ok(), "{}", first.ts);
    }
}
