//! A relay to try the agent against.
