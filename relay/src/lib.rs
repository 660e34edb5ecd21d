//! Moves the bytes of sniproxy's sessions, off Python's interpreter lock.
//!
//! `session` is one session: two sockets and what is owed to each. `deadlines` keeps the timeouts. `engine` is the thread that
//! owns all sessions. `python` is the door: the module `sniproxy._relay`.

pub mod deadlines;
pub mod engine;
#[cfg(feature = "python")]
mod python;
pub mod session;
