//! Those who have been accepted and are no session yet.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Instant;

use crate::header::{self, Header};
use crate::hello::{self, Reading};

/// Somebody who has been accepted and has not said all yet.
pub(super) struct Waiting {
    pub(super) token: u64,
    pub(super) listener: usize,
    pub(super) socket: OwnedFd,
    pub(super) peer: SocketAddr,
    /// Whose connection it is: the peer's, or what the PROXY header says.
    pub(super) source: SocketAddr,
    pub(super) since: Instant,
    pub(super) said: Vec<u8>,
    /// The protocols that it offers, once its hello is whole.
    pub(super) alpn: Option<Box<[u8]>>,
    /// Where its hello begins; None: behind a PROXY header that is not whole yet.
    pub(super) hello_at: Option<usize>,
    /// Its hello came in several pieces.
    pub(super) split: bool,
}

/// Who is between accept and a connection with a game server, for those who must not be so for long.
#[derive(Clone, Copy)]
pub(super) enum Pending {
    Waiting(usize, u64),
    Shaking(usize, u64),
    Connecting(usize, u64),
}

impl Waiting {
    /// All that it has said was for us, and from here on it is the client's connection.
    pub(super) fn heard_out(mut self) -> Self {
        self.said = Vec::new();
        self.peer = self.source;
        self.hello_at = Some(0);
        self
    }

    /// It says more.
    pub(super) fn hear(&mut self, more: &[u8]) {
        let begun = self.hello_at.is_some_and(|at| self.said.len() > at);
        self.split |= begun;
        self.said.extend_from_slice(more);
    }

    /// What it has said so far: the header first, where there is one, and whose name it brings.
    pub(super) fn read(&mut self) -> Reading {
        let hello_at = match self.hello_at {
            Some(hello_at) => hello_at,
            None => match header::read(&self.said) {
                Header::More => return Reading::More,
                Header::Unsure => return Reading::Unsure,
                Header::Source(source, size) => {
                    self.source = source;
                    *self.hello_at.insert(size)
                }
            },
        };
        hello::read(&self.said[hello_at..])
    }
}
