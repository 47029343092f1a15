//! The relay's protocol, version 1: message forms, canonical JSON, signatures, checks. Pure: no sockets, no clock of its own.
