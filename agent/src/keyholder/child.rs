//! The child: reads the identity, gives up its rights, signs.

use std::io::{self, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use ed25519_dalek::SigningKey;
use rustix::fs::FileType;

use super::PublicIdentity;
use super::wire::{self, Opening, Question, Readiness, Reply};
use super::{lockdown, mac};
use crate::store::identity::Identity;
use protocol::Timestamp;
use protocol::signing::{Domain, connection_proof_bytes, sign};

/// How far from this host's clock the time of a proof may be, in milliseconds. Relays take a proof
/// for a minute around its time: without this limit, an attacker in the agent could have proofs
/// for years ahead signed in one go, which would be as good as the key.
const NOW_MS: u64 = 60_000;

/// Runs the key holder on standard input until the agent is gone.
pub fn serve() -> ExitCode {
    let Some(mut agent) = agents_socket() else {
        eprintln!(
            "error: `key-holder` is what the agent starts for itself; there is nothing to do"
        );
        return ExitCode::from(2);
    };
    let held = match ready(&mut agent) {
        Ok(held) => held,
        Err(why) => {
            if let Some(answer) = wire::pack(&Readiness::Unready(why)) {
                // An agent that is gone needs no answer.
                let _ = agent.write_all(&answer);
            }
            return ExitCode::FAILURE;
        }
    };
    match held.answer_all(&mut agent) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Standard input, when it is a socket.
fn agents_socket() -> Option<AgentsSocket> {
    let mode = rustix::fs::fstat(io::stdin()).ok()?.st_mode;
    (FileType::from_raw_mode(mode) == FileType::Socket).then_some(AgentsSocket)
}

/// Standard input, read and written with the two system calls that stay allowed.
struct AgentsSocket;

impl Read for AgentsSocket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(io::stdin(), buffer)?)
    }
}

impl Write for AgentsSocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(io::stdin(), bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads the identity and gives up all rights.
fn ready(agent: &mut AgentsSocket) -> Result<LoadedKey, String> {
    lockdown::before_reading().map_err(|error| error.to_string())?;
    let opening: Opening = wire::read_packed(agent).map_err(|error| error.to_string())?;
    let held = load(&opening)?;
    lockdown::keep_in_memory(&held.key);
    // What signing needs once, it gets now.
    held.proof(Timestamp::now(), Timestamp::now()).ok_or("this identity cannot sign a proof")?;
    held.answer(Question::BaselineMac([0; 32])).ok_or("this identity cannot make a MAC")?;
    lockdown::after_reading().map_err(|error| error.to_string())?;
    Ok(held)
}

fn load(opening: &Opening) -> Result<LoadedKey, String> {
    let path = Path::new(&opening.identity);
    let identity =
        Identity::load(path, opening.endpoint.as_deref()).map_err(|error| error.to_string())?;
    let public = PublicIdentity {
        endpoint_id: identity.endpoint_id.clone(),
        tenant_id: identity.tenant_id.clone(),
        relay: identity.relay.clone(),
        public_key: identity.public_key(),
    };
    Ok(LoadedKey { public, key: Box::new(identity.into_key()) })
}

/// The key, and what proofs are made of beside the time.
struct LoadedKey {
    public: PublicIdentity,
    key: Box<SigningKey>,
}

impl LoadedKey {
    /// Answers until the agent hangs up.
    fn answer_all(&self, agent: &mut AgentsSocket) -> io::Result<()> {
        let ready = wire::pack(&Readiness::Ready(self.public.clone()));
        agent.write_all(&ready.ok_or(io::ErrorKind::InvalidData)?)?;
        let mut question = [0; wire::ASK_BYTES];
        loop {
            match agent.read_exact(&mut question) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                asked => asked?,
            }
            let reply = Question::read(question)
                .and_then(|question| self.answer(question))
                .map_or(Reply::Refused, Reply::Given);
            agent.write_all(&wire::pack_reply(&reply))?;
        }
    }

    fn answer(&self, question: Question) -> Option<[u8; 64]> {
        match question {
            Question::Proof(ts) => self.proof(ts, Timestamp::now()),
            // The prefix keeps the signature from being one of anything else.
            Question::Bundle(digest) => Some(sign(&self.key, Domain::EvidenceBundle, &digest)),
            Question::BaselineMac(digest) => {
                let mut reply = [0; 64];
                let mac = mac::of_baselines(&self.key, &self.public.endpoint_id, &digest)?;
                let (start, _) = reply.split_at_mut(mac.len());
                start.copy_from_slice(&mac);
                Some(reply)
            }
        }
    }

    /// Signs a proof, when its time is now.
    fn proof(&self, ts: Timestamp, now: Timestamp) -> Option<[u8; 64]> {
        if ts.millis().abs_diff(now.millis()) > NOW_MS {
            return None;
        }
        let PublicIdentity { endpoint_id, tenant_id, .. } = &self.public;
        let bytes = connection_proof_bytes(endpoint_id, tenant_id, &ts.to_string()).ok()?;
        Some(sign(&self.key, Domain::ConnectionProof, &bytes))
    }
}

#[cfg(test)]
mod tests;
