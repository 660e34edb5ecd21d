//! Those who come: accepting, reading what they ask for, and playing it by a plan, where there is one.
//!
//! Only what goes smoothly is done here. Whatever else happens (no plan, a hello that is not plain, a game server that does
//! not take the connection, one that is slow, or a client that is) becomes an `Arrival`, as far as it has come: Python knows
//! every rule, and a reason for every end. So no timeout of set-up is known here: who has waited for a whole tick is handed over.

use std::mem::take;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, getsockname, recv};

use super::listening::Guest;
use super::mishap::caught;
#[cfg(test)]
use super::orders::Trap;
use super::shaking::Unshaken;
use super::told::lock;
use super::waiting::{Pending, Waiting};
use super::{Engine, WAITING};
use crate::hello::Reading;
use crate::plans::Plan;
use crate::session::End;
use crate::tls::{Agreed, Tls};

#[cfg(test)]
mod tests;

/// Bytes that are read of a first flight before it is somebody else's.
const FIRST: usize = 32 * 1024;

/// Somebody for whom there is no plan, or whose plan did not come about.
pub struct Arrival<T> {
    /// Which listener it came to.
    pub listener: usize,
    /// Its socket.
    pub socket: OwnedFd,
    /// Its address.
    pub peer: SocketAddr,
    /// What was read from it.
    pub said: Vec<u8>,
    /// Why no more could be read; its end can be read again.
    pub failure: Option<Errno>,
    /// Since it was accepted.
    pub waited: Duration,
    /// The game server that was tried.
    pub tried: Option<Tried<T>>,
    /// The handshake that was begun: as far as it has come, or why it came to nothing.
    pub tls: Option<Result<Box<Tls>, Unshaken>>,
    /// Its hello came in several pieces.
    pub split: bool,
}

/// A connection to a game server that has not come about.
pub struct Tried<T> {
    /// By which plan.
    pub plan: Arc<Plan<T>>,
    /// Which of its nodes.
    pub node: usize,
    /// The socket, still on its way, or why there is none.
    pub outcome: Result<OwnedFd, Errno>,
    /// From accept to the whole hello.
    pub hello_took: Duration,
    /// From there to the end of the TLS handshake; None: there was none.
    pub shook: Option<Duration>,
}

/// The end of a session that went by a plan.
pub struct Played<T> {
    /// The session.
    pub token: u64,
    /// The plan.
    pub plan: Arc<Plan<T>>,
    /// Which of its nodes.
    pub node: usize,
    /// The client's address.
    pub peer: SocketAddr,
    /// The protocols that it offered.
    pub alpn: Option<Box<[u8]>>,
    /// Our own address on the way to the node; None: the kernel knows it no more.
    pub source: Option<SocketAddr>,
    /// How it ended.
    pub end: End,
    /// Bytes handed to the kernel for the upstream.
    pub to_upstream: u64,
    /// Bytes handed to the kernel for the client.
    pub to_client: u64,
    /// From accept to the whole hello.
    pub hello_took: Duration,
    /// What the TLS handshake agreed upon, and how long it took from there; None: there was none.
    pub sealed: Option<(Agreed, Duration)>,
    /// From there to the connection with the game server; None: it never was.
    pub connect_took: Option<Duration>,
    /// From accept to its end.
    pub lasted: Duration,
}

/// Ours, of a socket; None: the kernel does not say.
pub(super) fn own_address(socket: BorrowedFd<'_>) -> Option<SocketAddr> {
    getsockname(socket).ok()?.try_into().ok()
}

impl<T: Send + Sync> Engine<T> {
    pub(super) fn welcome(
        &mut self,
        listener: usize,
        socket: OwnedFd,
        peer: SocketAddr,
        guest: Guest,
    ) {
        self.accepted += 1;
        let has_place = self.shared.places.enter();
        let waiting = Waiting {
            token: self.new_token(),
            listener,
            socket,
            peer,
            source: peer,
            since: Instant::now(),
            said: Vec::new(),
            alpn: None,
            hello_at: (guest == Guest::Itself).then_some(0),
            split: false,
        };
        if has_place && guest != Guest::Stranger {
            self.hear(waiting, None);
        } else {
            self.hand_over(waiting, None, None, None);
        }
    }

    /// More from somebody who waits.
    pub(super) fn hear_more(&mut self, key: usize) {
        if let Some(waiting) = self.waiting.try_remove(key) {
            self.hear(waiting, Some(key));
        }
    }

    /// Reads once, and goes on from there. `key`: where it is known to epoll.
    fn hear(&mut self, waiting: Waiting, key: Option<usize>) {
        self.turn_of_guest(waiting, |engine, waiting| engine.hear_now(waiting, key));
    }

    fn hear_now(&mut self, mut waiting: Waiting, key: Option<usize>) {
        let room = (FIRST - waiting.said.len()).min(self.tools.buffer.len());
        let heard = recv(
            &waiting.socket,
            &mut self.tools.buffer[..room],
            RecvFlags::empty(),
        );
        let count = match heard {
            Ok((_, count)) => count,
            Err(Errno::AGAIN | Errno::INTR) => return self.wait_for_more(waiting, key),
            Err(error) => return self.give_away(waiting, key, Some(error)),
        };
        if count == 0 {
            return self.give_away(waiting, key, None);
        }
        let emptied = count < room;
        waiting.hear(&self.tools.buffer[..count]);
        #[cfg(test)]
        self.trip(Trap::Hear);
        let read = caught(|| {
            #[cfg(test)]
            self.trip(Trap::Read);
            waiting.read()
        });
        // Where this reader has a defect, Python's must look too.
        match read.unwrap_or(Reading::Unsure) {
            Reading::More if waiting.said.len() < FIRST => self.wait_for_more(waiting, key),
            Reading::Name(name, alpn) => {
                waiting.alpn = alpn;
                let plan = lock(&self.shared.plans).find(waiting.listener, &name);
                match plan {
                    Some(plan) if plan.tls.is_some() => self.welcome_sealed(waiting, key, plan),
                    Some(plan) => self.set_out(waiting, key, plan, emptied),
                    None => self.give_away(waiting, key, None),
                }
            }
            Reading::More | Reading::Unsure => self.give_away(waiting, key, None),
        }
    }

    fn wait_for_more(&mut self, waiting: Waiting, key: Option<usize>) {
        if let Some(key) = key {
            // Its place is free: nobody else came between.
            let entry = self.waiting.vacant_entry();
            debug_assert_eq!(entry.key(), key);
            entry.insert(waiting);
            return;
        }
        let token = waiting.token;
        let entry = self.waiting.vacant_entry();
        let key = entry.key();
        let data = EventData::new_u64(WAITING | key as u64);
        let added = epoll::add(
            &self.epoll,
            &waiting.socket,
            data,
            EventFlags::IN | EventFlags::RDHUP,
        );
        if added.is_err() {
            return self.hand_over(waiting, None, None, None); // the kernel has no memory left
        }
        entry.insert(waiting);
        self.pending.push(Pending::Waiting(key, token));
    }

    /// To Python, out of epoll first.
    fn give_away(&mut self, waiting: Waiting, key: Option<usize>, failure: Option<Errno>) {
        if key.is_some() {
            let _ = epoll::delete(&self.epoll, &waiting.socket);
        }
        self.hand_over(waiting, failure, None, None);
    }

    pub(super) fn hand_over(
        &mut self,
        waiting: Waiting,
        failure: Option<Errno>,
        tried: Option<Tried<T>>,
        tls: Option<Result<Box<Tls>, Unshaken>>,
    ) {
        self.arrivals.push(Arrival {
            listener: waiting.listener,
            socket: waiting.socket,
            peer: waiting.peer,
            said: waiting.said,
            failure,
            waited: waiting.since.elapsed(),
            tried,
            tls,
            split: waiting.split,
        });
    }

    /// A tick has come: whoever was there at the last one and is no session yet is handed over, and listeners go on.
    pub(super) fn clear_pending(&mut self) {
        let late = std::mem::replace(&mut self.late, take(&mut self.pending));
        for one in late {
            match one {
                Pending::Waiting(key, token) => {
                    if self.waiting.get(key).is_some_and(|one| one.token == token) {
                        let waiting = self.waiting.remove(key);
                        self.give_away(waiting, Some(key), None);
                    }
                }
                Pending::Shaking(key, token) => self.give_up_shaking(key, token),
                Pending::Connecting(key, token) => {
                    let entry = self.entries.get(key);
                    if entry.is_some_and(|one| one.token == token && one.connecting) {
                        self.take_back(key, None);
                    }
                }
            }
        }
    }

    /// Those who wait when the engine ends are somebody else's to count.
    pub(super) fn abandon_waiting(&mut self) {
        let keys: Vec<_> = self.waiting.iter().map(|(key, _)| key).collect();
        for key in keys {
            let waiting = self.waiting.remove(key);
            self.give_away(waiting, Some(key), None);
        }
    }

    /// Not to be guessed, and never one of those that are counted up.
    pub(super) fn new_token(&mut self) -> u64 {
        // splitmix64, from a seed of the system's.
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.seed;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) | 1 << 63
    }
}
