//! What the agent keeps on disk: its identity, spent nonces, the journal of commands, the audit log.
