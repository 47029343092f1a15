//! The verification of a reset in the form that the relay is told.

use std::time::SystemTime;

use protocol::Timestamp;
use protocol::message::{SandboxResetState, VerificationDetails};
use sandbox::Verification;

/// Writes a verification as the field `sandbox_reset_state` of a result.
pub fn reset_report(verification: &Verification) -> SandboxResetState {
    let since_epoch = verification.reset_at.duration_since(SystemTime::UNIX_EPOCH);
    let millis = since_epoch.map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX));
    SandboxResetState {
        reset_at: Timestamp::from_millis(millis).to_string(),
        golden_hash: verification.golden_hash.clone(),
        verification_passed: verification.passed(),
        verification_details: VerificationDetails {
            fs_hash: verification.fs_hash.clone(),
            fs_hash_baseline: verification.fs_hash_baseline.clone(),
            fs_hash_match: verification.fs_hash_match(),
            open_fd_count: verification.open_fd_count,
            open_fd_count_baseline: verification.open_fd_count_baseline,
            vmm_api_state: verification.vmm_state.to_owned(),
            expected_vmm_api_state: verification.expected_vmm_state.to_owned(),
            divergence_action: verification.divergence_action().to_owned(),
        },
    }
}
