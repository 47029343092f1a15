//! Checks a bundle of evidence on any machine: no relay, no KVM, no agent.
//!
//! ```text
//! brainstorm-agent evidence export COMMAND_ID --output case.json      # on the endpoint
//! cargo run -p brainstorm-agent --example verify_evidence -- case.json ENDPOINT_KEY_HEX
//! ```

use std::error::Error;

use brainstorm_agent::evidence::Trust;
use brainstorm_agent::evidence::check::verify;
use ed25519_dalek::VerifyingKey;
use protocol::shape::bytes_of_hex;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let file = arguments.next().ok_or("usage: verify_evidence BUNDLE [ENDPOINT_KEY_HEX]")?;
    let key = match arguments.next() {
        Some(hex) => {
            let bytes: [u8; 32] = bytes_of_hex(&hex).ok_or("a key is 64 hex digits")?;
            Some(VerifyingKey::from_bytes(&bytes)?)
        }
        // Without a key that was known before, only the bundle's own key vouches for it.
        None => None,
    };
    let report = verify(&std::fs::read(file)?, Trust { endpoint: key.as_ref(), tenant: None })?;
    println!("command {} ran {} on {}", report.command_id, report.tool, report.endpoint_id);
    println!("machine verified afterwards: {:?}", report.verification_passed);
    println!("{} chunks of output, hash {}", report.chunks, report.evidence_hash);
    println!("signed by {}, a key known before: {}", report.signed_by, report.endpoint_key_checked);
    Ok(())
}
