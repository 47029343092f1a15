//! The process that holds the endpoint's private key, and what asks it for signatures.
