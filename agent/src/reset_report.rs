//! The verification of a reset in the form that the relay is told: the protocol's names and values for
//! what a [`Verification`] says.

use std::time::SystemTime;

use protocol::Timestamp;
use protocol::message::{SandboxResetState, VerificationDetails};
use sandbox::Verification;
use sandbox::verify::RunState;

/// In place of a hash that could not be computed: no golden state has it.
const NO_HASH: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
/// In place of a number of descriptors that is not known.
const UNKNOWN_COUNT: i64 = -1;

/// Writes a verification as the field `sandbox_reset_state` of a result.
pub fn reset_report(verification: &Verification) -> SandboxResetState {
    let since_epoch = verification.reset_at.duration_since(SystemTime::UNIX_EPOCH);
    let millis = since_epoch.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX));
    let passed = verification.passed();
    SandboxResetState {
        reset_at: Timestamp::from_millis(millis).to_string(),
        golden_hash: verification.golden_hash.clone(),
        verification_passed: passed,
        verification_details: VerificationDetails {
            fs_hash: verification.disk_hash.clone().unwrap_or_else(|| NO_HASH.to_owned()),
            fs_hash_baseline: verification.golden_disk_hash.clone(),
            fs_hash_match: verification.disk_matches(),
            open_fd_count: verification.descriptors.unwrap_or(UNKNOWN_COUNT),
            open_fd_count_baseline: verification.golden_descriptors,
            vmm_api_state: vmm_api_state(verification.run_state).to_owned(),
            expected_vmm_api_state: vmm_api_state(RunState::Running).to_owned(),
            divergence_action: if passed { "none" } else { "halt" }.to_owned(),
        },
    }
}

/// Whether this was said of a machine that was held as it was found: only its disk was looked at.
pub fn is_of_a_held_machine(details: &VerificationDetails) -> bool {
    details.fs_hash == NO_HASH && details.vmm_api_state == vmm_api_state(RunState::Held)
}

/// The protocol's word for what a machine is doing.
fn vmm_api_state(state: RunState) -> &'static str {
    match state {
        RunState::Running => "running",
        RunState::Paused | RunState::Held => "paused",
        RunState::Stopped => "stopped",
        RunState::Error => "error",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sandbox::verify::{Finding, Location, Source};

    use super::*;

    fn agreeing() -> Verification {
        let reset_at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_323_045_678);
        Verification::agreeing(reset_at, "sha256:aa", "sha256:bb", 6)
    }

    fn bytes(verification: &Verification) -> String {
        serde_json::to_string(&reset_report(verification)).unwrap()
    }

    #[test]
    fn the_relay_is_told_the_protocols_names_in_their_order() {
        assert_eq!(
            bytes(&agreeing()),
            "{\"reset_at\":\"2026-01-02T03:04:05.678Z\",\"golden_hash\":\"sha256:aa\",\
             \"verification_passed\":true,\"verification_details\":{\
             \"fs_hash\":\"sha256:bb\",\"fs_hash_baseline\":\"sha256:bb\",\"fs_hash_match\":true,\
             \"open_fd_count\":6,\"open_fd_count_baseline\":6,\
             \"vmm_api_state\":\"running\",\"expected_vmm_api_state\":\"running\",\
             \"divergence_action\":\"none\"}}"
        );
    }

    #[test]
    fn what_is_not_known_has_values_that_no_golden_state_has() {
        let found = Verification {
            disk_hash: None,
            descriptors: None,
            run_state: RunState::Held,
            ..agreeing()
        };
        let zeros = "0".repeat(64);
        assert_eq!(
            bytes(&found),
            format!(
                "{{\"reset_at\":\"2026-01-02T03:04:05.678Z\",\"golden_hash\":\"sha256:aa\",\
                 \"verification_passed\":false,\"verification_details\":{{\
                 \"fs_hash\":\"sha256:{zeros}\",\"fs_hash_baseline\":\"sha256:bb\",\
                 \"fs_hash_match\":false,\
                 \"open_fd_count\":-1,\"open_fd_count_baseline\":6,\
                 \"vmm_api_state\":\"paused\",\"expected_vmm_api_state\":\"running\",\
                 \"divergence_action\":\"halt\"}}}}"
            )
        );
        assert!(is_of_a_held_machine(&reset_report(&found).verification_details));
        let known = Verification { disk_hash: Some("sha256:bb".into()), ..found };
        assert!(!is_of_a_held_machine(&reset_report(&known).verification_details));
    }

    #[test]
    fn every_state_and_every_reason_to_halt_is_told() {
        for (run_state, word) in [
            (RunState::Running, "running"),
            (RunState::Paused, "paused"),
            (RunState::Held, "paused"),
            (RunState::Stopped, "stopped"),
            (RunState::Error, "error"),
        ] {
            let details =
                reset_report(&Verification { run_state, ..agreeing() }).verification_details;
            assert_eq!(details.vmm_api_state, word);
        }
        let finding = Finding::new(Source::Guest, Location::Descriptors, 6, 7);
        for halted in [
            Verification { silent: true, descriptors: None, ..agreeing() },
            Verification { findings: vec![finding], ..agreeing() },
            Verification { disk_hash: Some("sha256:cc".into()), ..agreeing() },
        ] {
            let report = reset_report(&halted);
            assert!(!report.verification_passed);
            assert_eq!(report.verification_details.divergence_action, "halt");
        }
    }
}
