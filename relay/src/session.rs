//! One session: two sockets, and what is owed to each. It knows neither epoll nor clocks nor Python.
//!
//! A direction is pumped from one side to the other: read into a buffer that all sessions share, sent at once, and only
//! what the kernel did not take is kept, as a debt to that side. Nothing more is read for a side that has a debt. So an idle
//! session holds no buffer, and a busy one holds at most one buffer per direction. A direction that fills the buffer goes on
//! through a pipe, as long as there is one and much to move.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::sockopt;

use crate::scratch::Scratch;
use crate::socket::{Owed, Socket, in_proportion};
use crate::tls::{Agreed, Failure, Tls};
use crate::tools::{PIPE, Pipe, Tools};

mod sealed;

/// One of the two ends of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The player.
    Client = 0,
    /// The game server.
    Upstream = 1,
}

impl Side {
    /// The other end.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Client => Self::Upstream,
            Self::Upstream => Self::Client,
        }
    }
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Both sides sent their end; the one that did so first.
    Closed(Side),
    /// The same, but that side ended without the `close_notify` of its TLS: bytes may be missing.
    Truncated(Side),
    /// A side's TLS broke.
    BadTls(Side, Failure),
    /// A side failed with an error of the kernel.
    Lost(Side, Errno),
    /// No byte moved for too long.
    Idle,
    /// It lasted too long.
    TimeUp,
    /// It was told to end by now.
    Drained,
    /// One side had ended, and the other never did.
    NeverClosed(Side),
    /// Somebody asked for it.
    Killed,
    /// Memory was short, and it held the most.
    Shed,
    /// The engine was stopped.
    Stopped,
    /// A defect of ours: what the panic said, and where it was.
    Broken(Arc<str>),
}

/// What became of pumping a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pumped {
    /// It waits for a socket.
    Waits,
    /// It used up its share of the turn; there may be more at once.
    HasMore,
    /// It has moved all that it may for now; there may be more.
    Capped,
}

/// Two sockets and the bytes between them.
pub struct Session {
    sockets: [Socket; 2],
    /// Bytes handed to the kernel for each side, in clear.
    moved: [u64; 2],
    /// Who sent its end first.
    pub first_end: Option<Side>,
    /// That one ended without a `close_notify`.
    truncated: bool,
    /// How it ends once what came before has been handed on.
    doom: Option<Box<End>>,
}

impl Session {
    /// Takes both sockets over; `first` was read from the client already and goes to the upstream before all else.
    #[must_use]
    pub fn new(client: OwnedFd, upstream: OwnedFd, first: Vec<u8>) -> Self {
        let mut sockets = [Socket::new(client), Socket::new(upstream)];
        let count = first.len();
        sockets[Side::Upstream as usize].debt = Owed::bytes(first, count);
        Self {
            sockets,
            moved: [0, 0],
            first_end: None,
            truncated: false,
            doom: None,
        }
    }

    /// The same with TLS on a side, whose handshake is over.
    #[must_use]
    pub fn with_tls(mut self, side: Side, tls: Option<Box<Tls>>) -> Self {
        let Some(mut tls) = tls else {
            return self;
        };
        let socket = &mut self.sockets[side as usize];
        socket.ended = tls.has_ended();
        if let Some(Owed::Bytes(owed)) = socket.debt.take().map(|owed| *owed) {
            let (clear, mut sealed) = (owed.left(), Scratch::default());
            if let Err(failure) = tls.encrypt(&clear, &mut sealed) {
                self.doom = Some(Box::new(End::BadTls(side, failure)));
            }
            socket.debt = Owed::bytes(sealed.to_vec(), clear.len());
        }
        socket.tls = Some(tls);
        self
    }

    /// The same for a game server that was only just connected to, and was sent the first `sent` bytes of `first`, or is still
    /// on its way (None). `emptied`: the client has said no more, as far as is known.
    #[must_use]
    pub fn begun(
        client: OwnedFd,
        upstream: OwnedFd,
        mut first: Vec<u8>,
        sent: Option<usize>,
        emptied: bool,
    ) -> Self {
        let count = sent.unwrap_or(0);
        let rest = first.split_off(count);
        let taken = rest.is_empty();
        let mut session = Self::new(client, upstream, rest);
        session.sockets[Side::Client as usize].readable = !emptied;
        session.sockets[Side::Upstream as usize].readable = false;
        session.sockets[Side::Upstream as usize].writable = taken;
        session.moved[Side::Upstream as usize] = count as u64;
        session
    }

    /// What a side's TLS has agreed upon; None: it has none.
    #[must_use]
    pub fn agreed(&self, side: Side) -> Option<Agreed> {
        let tls = self.sockets[side as usize].tls.as_ref();
        tls.map(|tls| tls.agreed())
    }

    /// Both sockets, the client's first, with its TLS, and what the upstream is owed.
    #[must_use]
    pub fn into_parts(self) -> (OwnedFd, Option<Box<Tls>>, OwnedFd, Vec<u8>) {
        let [client, upstream] = self.sockets;
        let owed = match upstream.debt.map(|owed| *owed) {
            Some(Owed::Bytes(owed)) => owed.left(),
            Some(Owed::Pipe(_)) | None => Vec::new(), // nothing was piped before it was connected
        };
        (client.fd, client.tls, upstream.fd, owed)
    }

    /// The socket of a side.
    #[must_use]
    pub fn socket(&self, side: Side) -> BorrowedFd<'_> {
        self.sockets[side as usize].fd.as_fd()
    }

    /// Bytes handed to the kernel for the upstream, and for the client; in clear.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (
            self.moved[Side::Upstream as usize],
            self.moved[Side::Client as usize],
        )
    }

    /// Bytes that are held for both sides, since they did not take them yet.
    #[must_use]
    pub fn held(&self) -> usize {
        self.sockets.iter().map(Socket::held).sum()
    }

    /// Bytes of one side that were handed to the kernel since these were the counts.
    #[must_use]
    pub fn moved_since(&self, from: Side, before: (u64, u64)) -> u64 {
        let (to_upstream, to_client) = self.counts();
        match from {
            Side::Client => to_upstream - before.0,
            Side::Upstream => to_client - before.1,
        }
    }

    /// The kernel has said that a side can be read from (`read_on`: until nothing is left) or written to.
    pub fn announce(&mut self, side: Side, readable: bool, writable: bool, read_on: bool) {
        let socket = &mut self.sockets[side as usize];
        socket.readable |= readable || read_on;
        socket.writable |= writable || read_on;
        socket.read_on |= read_on;
    }

    /// Moves what one side has said to the other, up to `share` bytes or a bit more, and never more than `cap`.
    ///
    /// # Errors
    ///
    /// How the session ended.
    pub fn pump(
        &mut self,
        from: Side,
        tools: &mut Tools,
        share: usize,
        cap: usize,
    ) -> Result<Pumped, End> {
        if self.sockets.iter().any(|socket| socket.tls.is_some()) {
            return self.pump_sealed(from, tools, share, cap);
        }
        let to = from.other();
        let before = self.moved[to as usize];
        let paid = self.pay(to, tools)?;
        let debt = usize::try_from(self.moved[to as usize] - before).unwrap_or(usize::MAX);
        if !paid {
            return Ok(Pumped::Waits);
        }
        let (mut left, mut allowed) = (share, cap.saturating_sub(debt));
        loop {
            if !self.pay(to, tools)? {
                return Ok(Pumped::Waits);
            }
            if self.sockets[from as usize].ended {
                self.pass_on_the_end(from, tools)?;
                return Ok(Pumped::Waits);
            }
            if !self.sockets[from as usize].readable {
                return Ok(Pumped::Waits);
            }
            if allowed == 0 {
                return Ok(Pumped::Capped);
            }
            if left == 0 {
                return Ok(Pumped::HasMore);
            }
            if self.sockets[from as usize].bulk {
                if let Some(pipe) = tools.take_pipe() {
                    let count = self.hand_on(from, pipe, tools, allowed)?;
                    (left, allowed) = (left.saturating_sub(count), allowed - count);
                    continue;
                }
            }
            let size = tools.buffer.len().min(allowed);
            let received = self.sockets[from as usize].receive(&mut tools.buffer[..size]);
            match received.map_err(|error| self.lost(from, error))? {
                Some(count) => {
                    self.hand(to, &tools.buffer[..count], count)?;
                    (left, allowed) = (left.saturating_sub(count), allowed - count);
                }
                None => return Ok(Pumped::Waits),
            }
        }
    }

    /// Whether both sides have ended and know it of each other.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.sockets
            .iter()
            .all(|socket| socket.ended && socket.shut)
    }

    /// How it ended, now that it is over.
    #[must_use]
    pub fn gentle_end(&self) -> End {
        let first = self.first_end.unwrap_or(Side::Client);
        if self.truncated {
            End::Truncated(first)
        } else {
            End::Closed(first)
        }
    }

    /// Makes closing reach a side as a reset.
    pub fn reset(&self, side: Side) {
        // What cannot be told to a socket that is gone need not be told.
        let _ = sockopt::set_socket_linger(
            &self.sockets[side as usize].fd,
            Some(std::time::Duration::ZERO),
        );
    }

    /// Sends what a side is owed; whether all of it was taken.
    fn pay(&mut self, to: Side, tools: &mut Tools) -> Result<bool, End> {
        let socket = &mut self.sockets[to as usize];
        while let Some(mut owed) = socket.debt.take() {
            let paid = if socket.writable {
                owed.pay(socket)
            } else {
                Ok((0, false))
            };
            let (count, all) = match paid {
                Ok(paid) => paid,
                Err(error) => return Err(self.lost(to, error)),
            };
            self.moved[to as usize] += count as u64;
            if !all {
                socket.debt = Some(owed);
                if !socket.writable {
                    return Ok(false);
                }
            } else if let Owed::Pipe(pipe) = *owed {
                tools.give_back(pipe);
            }
        }
        Ok(true)
    }

    /// Moves bulk to a side that is owed nothing, without copying it; how many bytes left its source.
    fn hand_on(
        &mut self,
        from: Side,
        mut pipe: Pipe,
        tools: &mut Tools,
        allowed: usize,
    ) -> Result<usize, End> {
        let filled = self.sockets[from as usize].fill(&mut pipe, PIPE.min(allowed));
        let size = filled.map_err(|error| self.lost(from, error))?;
        let to = from.other();
        while !pipe.is_empty() && self.sockets[to as usize].writable {
            let poured = self.sockets[to as usize].pour(&mut pipe);
            let count = poured.map_err(|error| self.lost(to, error))?;
            self.moved[to as usize] += count as u64;
        }
        if pipe.is_empty() {
            tools.give_back(pipe);
        } else {
            self.sockets[to as usize].debt = Some(Box::new(Owed::Pipe(pipe)));
        }
        Ok(size)
    }

    /// Sends to a side, behind what it is owed, and owes it the rest. `clear`: for how many bytes in clear they stand.
    fn hand(&mut self, to: Side, bytes: &[u8], clear: usize) -> Result<(), End> {
        let socket = &mut self.sockets[to as usize];
        let sent = if socket.writable && socket.debt.is_none() && !bytes.is_empty() {
            socket.send(bytes)
        } else {
            Ok(0)
        };
        let count = sent.map_err(|error| self.lost(to, error))?;
        let counted = in_proportion(clear, count, bytes.len());
        self.moved[to as usize] += counted as u64;
        if count < bytes.len() {
            self.sockets[to as usize].owe(&bytes[count..], clear - counted);
        }
        Ok(())
    }

    fn pass_on_the_end(&mut self, from: Side, tools: &mut Tools) -> Result<(), End> {
        self.first_end.get_or_insert(from);
        let to = from.other();
        self.say_goodbye(to, tools)?;
        if self.sockets[to as usize].debt.is_some() {
            return Ok(()); // first that
        }
        if self.sockets[to as usize].ended {
            self.sockets[to as usize].shut = true; // it is closed at once, which says so too
        }
        if !self.sockets[to as usize].shut {
            let told = self.sockets[to as usize].shut();
            told.map_err(|error| self.lost(to, error))?;
        }
        Ok(())
    }

    /// A side failed: one that had ended before has closed, not reset.
    fn lost(&self, side: Side, error: Errno) -> End {
        self.reset(side.other());
        if self.first_end == Some(side) {
            End::Closed(side)
        } else {
            End::Lost(side, error)
        }
    }
}
