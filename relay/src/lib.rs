//! Moves the bytes of sniproxy's sessions, off Python's interpreter lock.
//!
//! `session` is one session: two sockets and what is owed to each; `tools` are what it moves bytes with, `scratch` is the kind
//! of buffer that TLS fills. `deadlines` keeps the timeouts, `pace` the cap on bandwidth, `keepalive` says when the kernel asks
//! who still lives. `hello` finds the name in a `ClientHello`, `traits` what else is counted of it, `plans` what was decided for
//! it, `places` counts sessions over all workers. `engine` is the thread that owns all sessions and listeners; `meter` is what
//! it counts meanwhile. `tls` is TLS without sockets. `python` is the door: the module `sniproxy._relay`; `reports` is what it
//! tells there of all that has happened.

#[cfg(test)]
#[path = "../tests/support/certificates.rs"]
mod certificates;
pub mod deadlines;
pub mod engine;
#[cfg(feature = "python")]
mod handshakes;
pub mod header;
pub mod hello;
mod keepalive;
pub mod meter;
pub mod pace;
pub mod places;
pub mod plans;
#[cfg(feature = "python")]
mod python;
#[cfg(feature = "python")]
mod reports;
pub mod scratch;
pub mod session;
mod socket;
pub mod tls;
pub mod tools;
pub mod traits;
