//! What signatures and hashes are for. Each use has a prefix of its own, so that a signature for one
//! use serves no other.

/// What a signature, or a hash, is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Domain {
    /// A command from the relay.
    CommandEnvelope,
    /// Proof of the endpoint's key on a connection.
    ConnectionProof,
    /// A one-time token for enrollment.
    BootstrapToken,
    /// A message of an operator, authenticated by HMAC.
    OperatorHmac,
    /// A link of the evidence chain.
    EvidenceChunk,
    /// Everything known of one command, for others to check.
    EvidenceBundle,
    /// What the key of the baselines is derived from. No message carries such a signature.
    BaselineKey,
    /// The store of baselines, authenticated by HMAC.
    BaselineStore,
}

impl Domain {
    /// The bytes in front of what is hashed, ending in one NUL.
    pub fn prefix(self) -> &'static [u8] {
        match self {
            Self::CommandEnvelope => b"brainstorm-cmd-envelope-v1\0",
            Self::ConnectionProof => b"brainstorm-conn-proof-v1\0",
            Self::BootstrapToken => b"brainstorm-bootstrap-token-v1\0",
            Self::OperatorHmac => b"brainstorm-operator-hmac-v1\0",
            Self::EvidenceChunk => b"brainstorm-evidence-chunk-v1\0",
            Self::EvidenceBundle => b"brainstorm-evidence-bundle-v1\0",
            Self::BaselineKey => b"brainstorm-baseline-key-v1\0",
            Self::BaselineStore => b"brainstorm-baseline-store-v1\0",
        }
    }
}
