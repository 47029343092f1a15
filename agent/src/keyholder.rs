//! The endpoint's private key, in a process of its own.
//!
//! The agent's process holds machines that run hostile code, so the key is not in it. A small child
//! process reads the identity file, gives up every right it does not need, and then does three
//! things: it signs proofs for connections that are opened now, it signs evidence bundles, and it
//! makes the MAC of the store of baselines. It makes every byte that it signs itself, of a time or a
//! digest and a prefix of its own, so that no answer is good for anything else.
//!
//! An attacker who takes over the agent's process can ask it for all three for as long as the takeover lasts.
//! Proofs are worth nothing a minute afterwards. A bundle or a store that was signed then stays signed:
//! a bundle's date is the agent's word, and what was in one is to be compared with the heads the relay
//! has. That the key itself is out of reach holds against an agent that does not run as root: root can
//! look into every process.
//!
//! The two talk over a socket pair, the child's standard input. See [`wire`] for the forms.

mod child;
mod filter;
mod lockdown;
mod mac;
mod wire;

pub use child::serve;
#[cfg(test)]
pub(crate) use mac::of_baselines as mac_of_baselines;

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use protocol::Timestamp;
use wire::{Opening, Question, Readiness, Reply};

/// The hidden subcommand that runs [`serve`].
pub const SUBCOMMAND: &str = "key-holder";
/// Longest time for the child to read the identity and lock itself down.
const OPENING_LIMIT: Duration = Duration::from_secs(10);
/// Longest time for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Why there is no key, or no proof.
#[derive(Debug, thiserror::Error)]
pub enum KeyHolderError {
    /// The child could not be started.
    #[error(
        "cannot start the key holder: {0}; check limits on processes and that /proc is mounted"
    )]
    Spawn(io::Error),
    /// The path cannot be told to the child.
    #[error("the path of the identity file is not UTF-8 or longer than 4096 bytes; move the file")]
    Path,
    /// The child could not read the identity, or could not lock itself down. Its own words.
    #[error("{0}")]
    Unready(String),
    /// The child is gone, or does not answer as it must.
    #[error("the key holder is gone; the agent has to be started again")]
    Gone,
    /// The child did not sign.
    #[error("the key holder signs proofs for now only, not for {asked}; was the clock just set?")]
    NotNow {
        /// The time of the proof.
        asked: Timestamp,
    },
    /// The child refused what it never refuses.
    #[error("the key holder did not sign; was the agent replaced while it ran? Start it again")]
    Refused,
}

/// What is public of the endpoint's identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicIdentity {
    /// This endpoint.
    pub endpoint_id: String,
    /// The tenant of the endpoint.
    pub tenant_id: String,
    /// The relay it enrolled at.
    pub relay: String,
    /// The Ed25519 public key of the endpoint.
    pub public_key: [u8; 32],
}

/// The agent's end: asks the child for proofs.
#[derive(Debug)]
pub struct KeyHolder {
    public: PublicIdentity,
    channel: Mutex<ChildPipe>,
    pid: u32,
}

impl KeyHolder {
    /// Starts this program again as the key holder of the identity in that file, which must be of
    /// `expected_endpoint` if one is given.
    ///
    /// Call it before any machine exists, from a thread that lives as long as the agent: the kernel
    /// ends the child together with the thread that started it.
    pub fn spawn(identity: &Path, expected_endpoint: Option<&str>) -> Result<Self, KeyHolderError> {
        Self::spawn_program(Path::new("/proc/self/exe"), identity, expected_endpoint)
    }

    /// Starts the key holder from another program that has the hidden subcommand.
    pub fn spawn_program(
        program: &Path,
        identity: &Path,
        expected_endpoint: Option<&str>,
    ) -> Result<Self, KeyHolderError> {
        let identity = std::path::absolute(identity).map_err(KeyHolderError::Spawn)?;
        let opening = Opening {
            identity: identity.to_str().ok_or(KeyHolderError::Path)?.to_owned(),
            endpoint: expected_endpoint.map(str::to_owned),
        };
        let opening = wire::pack(&opening).ok_or(KeyHolderError::Path)?;
        let (stream, theirs) = UnixStream::pair().map_err(KeyHolderError::Spawn)?;
        let child = Command::new(program)
            .arg(SUBCOMMAND)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            // A signal of the terminal is for the agent, which ends the child when it is done.
            .process_group(0)
            .spawn()
            .map_err(KeyHolderError::Spawn)?;
        let pid = child.id();
        let mut channel = ChildPipe { stream, child, broken: false };
        let answer = channel.exchange(OPENING_LIMIT, &opening, wire::read_packed::<Readiness>)?;
        match answer {
            Readiness::Ready(public) => Ok(Self { public, channel: Mutex::new(channel), pid }),
            Readiness::Unready(why) => Err(KeyHolderError::Unready(why)),
        }
    }

    /// What is public of the identity.
    pub fn public(&self) -> &PublicIdentity {
        &self.public
    }

    /// The child's process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Signs a proof for a connection that is opened at `ts`, which must be now; about 100 us.
    ///
    /// The child makes the signed bytes itself, of its own identity and the time.
    pub fn connection_proof(&self, ts: Timestamp) -> Result<[u8; 64], KeyHolderError> {
        self.ask(Question::Proof(ts))?.ok_or(KeyHolderError::NotNow { asked: ts })
    }

    /// Signs the evidence bundle with this SHA-256 of its canonical bytes: see
    /// [`bundle`](crate::evidence::bundle).
    pub fn sign_bundle(&self, digest: [u8; 32]) -> Result<[u8; 64], KeyHolderError> {
        self.ask(Question::Bundle(digest))?.ok_or(KeyHolderError::Refused)
    }

    /// The MAC of a store of baselines with this SHA-256, the same every time: see
    /// [`store`](crate::baselines::store).
    pub fn baseline_mac(&self, digest: [u8; 32]) -> Result<[u8; 32], KeyHolderError> {
        let reply = self.ask(Question::BaselineMac(digest))?.ok_or(KeyHolderError::Refused)?;
        reply.first_chunk().copied().ok_or(KeyHolderError::Refused)
    }

    fn ask(&self, question: Question) -> Result<Option<[u8; 64]>, KeyHolderError> {
        let mut channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(match channel.exchange(ANSWER_LIMIT, &question.pack(), wire::read_reply)? {
            Reply::Given(given) => Some(given),
            Reply::Refused => None,
        })
    }
}

#[derive(Debug)]
struct ChildPipe {
    stream: UnixStream,
    child: Child,
    /// A question without its answer: the next answer would be to that one.
    broken: bool,
}

impl ChildPipe {
    fn exchange<T>(
        &mut self,
        limit: Duration,
        question: &[u8],
        answer: impl FnOnce(&mut dyn Read) -> io::Result<T>,
    ) -> Result<T, KeyHolderError> {
        if self.broken {
            return Err(KeyHolderError::Gone);
        }
        let exchange = || {
            self.stream.set_read_timeout(Some(limit))?;
            self.stream.set_write_timeout(Some(limit))?;
            self.stream.write_all(question)?;
            answer(&mut self.stream)
        };
        exchange().map_err(|error| {
            tracing::error!(%error, "no answer from the key holder");
            self.broken = true;
            KeyHolderError::Gone
        })
    }
}

impl Drop for ChildPipe {
    fn drop(&mut self) {
        // It has nothing to finish. Failing means that it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
