//! From envelope to result: the one place where protocol, store and sandbox meet.
