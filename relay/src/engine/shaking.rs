//! Handshakes: whose socket it is, and what is made of their end, is for others to say.
//!
//! The arithmetic of one takes as long as a hundred messages do, so those who play must not wait for a storm of them: who has
//! something to compute stands in a queue, of which each turn works off what fits into `SHARE`.

use std::collections::VecDeque;
use std::mem::take;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use slab::Slab;

use super::mishap::caught;
use super::waiting::{Pending, Waiting};
use super::{Engine, SESSION_EVENTS, SHAKING};
use crate::plans::Plan;
use crate::scratch::Scratch;
use crate::tls::{Failure, REST, Server, Tls};

#[cfg(test)]
mod tests;

/// How long handshakes may take in one turn, or a bit longer.
const SHARE: Duration = Duration::from_millis(1);

/// A `close_notify` in clear, as TLS 1.2 and 1.0 write it (RFC 5246 section 7.2.1): a handshake ends with it.
const GOODBYE: [u8; 7] = [21, 3, 3, 0, 2, 1, 0];
const GOODBYE_OLD: [u8; 7] = [21, 3, 1, 0, 2, 1, 0];

/// What came of a handshake.
pub struct Shaken<T> {
    /// What was handed over with it.
    pub owner: T,
    /// TLS to go on with, or why there is none.
    pub outcome: Result<Box<Tls>, Unshaken>,
}

/// Why a handshake has failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unshaken {
    /// One side did not like what the other said; the alert has gone out.
    Failed(Failure),
    /// The socket failed.
    Lost(Errno),
    /// The peer has gone.
    Closed,
    /// A defect of ours.
    Broken(String),
}

pub(super) struct Shaking<T> {
    token: u64,
    tls: Box<Tls>,
    /// What was read before.
    said: Vec<u8>,
    whose: Whose<T>,
    queued: bool,
}

/// Whose a handshake is: who has handed a copy of a socket over, or somebody who came here, by a plan.
enum Whose<T> {
    Given(T, OwnedFd),
    Guest(Box<(Waiting, Sealed<T>)>),
}

/// Where somebody goes whose handshake is over.
pub(super) struct Sealed<T> {
    pub(super) plan: Arc<Plan<T>>,
    pub(super) hello_took: Duration,
}

impl<T> Whose<T> {
    fn socket(&self) -> BorrowedFd<'_> {
        match self {
            Self::Given(_, socket) => socket.as_fd(),
            Self::Guest(guest) => guest.0.socket.as_fd(),
        }
    }
}

/// All of them.
pub(super) struct Shakes<T> {
    slab: Slab<Shaking<T>>,
    queue: VecDeque<(usize, u64)>,
}

impl<T> Default for Shakes<T> {
    fn default() -> Self {
        Self {
            slab: Slab::new(),
            queue: VecDeque::new(),
        }
    }
}

impl<T> Shakes<T> {
    /// Whether somebody has something to compute.
    pub(super) fn wants_turn(&self) -> bool {
        !self.queue.is_empty()
    }

    /// What events of the next one are about.
    fn next(&self) -> EventData {
        EventData::new_u64(SHAKING | self.slab.vacant_key() as u64)
    }

    fn begin(&mut self, token: u64, tls: Box<Tls>, said: Vec<u8>, whose: Whose<T>) -> usize {
        let key = self.slab.insert(Shaking {
            token,
            tls,
            said,
            whose,
            queued: false,
        });
        self.queue(key);
        key
    }

    fn queue(&mut self, key: usize) {
        if let Some(one) = self.slab.get_mut(key) {
            if !one.queued {
                one.queued = true;
                self.queue.push_back((key, one.token));
            }
        }
    }
}

impl<T: Send + Sync> Engine<T> {
    /// Begins one; `said` was read of the socket before.
    pub(super) fn shake(
        &mut self,
        token: u64,
        socket: OwnedFd,
        tls: Box<Tls>,
        said: Vec<u8>,
        owner: T,
    ) {
        let data = self.shakes.next();
        if let Err(error) = epoll::add(&self.epoll, &socket, data, SESSION_EVENTS) {
            let outcome = Err(Unshaken::Lost(error));
            self.shaken.push(Shaken { owner, outcome });
            return;
        }
        let whose = Whose::Given(owner, socket);
        self.shakes.begin(token, tls, said, whose);
    }

    /// Begins one with somebody for whom there is a plan. `key`: where it is known to epoll.
    pub(super) fn welcome_sealed(
        &mut self,
        waiting: Waiting,
        key: Option<usize>,
        plan: Arc<Plan<T>>,
    ) {
        let hello_took = waiting.since.elapsed();
        let tls = plan.tls.as_ref().map(Server::accept);
        let data = self.shakes.next();
        let known = if key.is_some() {
            epoll::modify(&self.epoll, &waiting.socket, data, SESSION_EVENTS)
        } else {
            epoll::add(&self.epoll, &waiting.socket, data, SESSION_EVENTS)
        };
        if let (Some(Ok(tls)), Ok(())) = (tls, known) {
            let token = waiting.token;
            let said = waiting.said[waiting.hello_at.unwrap_or(0)..].to_vec();
            let guest = Box::new((waiting, Sealed { plan, hello_took }));
            let whose = Whose::Guest(guest);
            let key = self.shakes.begin(token, Box::new(tls), said, whose);
            self.pending.push(Pending::Shaking(key, token));
        } else {
            let _ = epoll::delete(&self.epoll, &waiting.socket);
            self.hand_over(waiting, None, None, None);
        }
    }

    /// Hands somebody over whose handshake takes too long, as far as it has come.
    pub(super) fn give_up_shaking(&mut self, key: usize, token: u64) {
        let one = self.shakes.slab.get(key);
        if one.is_some_and(|one| one.token == token) {
            let one = self.shakes.slab.remove(key);
            self.let_go(one, None);
        }
    }

    /// One that is over, or whose time here is; `failure`: why it came to nothing.
    fn let_go(&mut self, one: Shaking<T>, failure: Option<Unshaken>) {
        let is_over = failure.is_some() || one.is_over();
        match one.whose {
            Whose::Given(owner, socket) => {
                let _ = epoll::delete(&self.epoll, &socket); // a copy of it lives on elsewhere
                drop(socket); // before anybody hears of it
                let outcome = failure.map_or(Ok(one.tls), Err);
                self.shaken.push(Shaken { owner, outcome });
            }
            Whose::Guest(guest) => {
                let (waiting, sealed) = *guest;
                if is_over && failure.is_none() {
                    self.turn_of_guest(waiting, |engine, waiting| {
                        engine.set_out_sealed(waiting, sealed, one.tls);
                    });
                } else {
                    let _ = epoll::delete(&self.epoll, &waiting.socket);
                    let tls = match failure {
                        Some(why) => Some(Err(why)),
                        None => begun(one.tls, &one.said).map(Ok),
                    };
                    self.hand_over(waiting, None, None, tls);
                }
            }
        }
    }

    /// Nobody waits for it any more.
    pub(super) fn abandon(&mut self, token: u64) {
        let found = self.shakes.slab.iter().find(|(_, one)| one.token == token);
        if let Some((key, _)) = found {
            let one = self.shakes.slab.remove(key);
            let _ = epoll::delete(&self.epoll, one.whose.socket()); // a copy of it may live on elsewhere
        }
    }

    /// The kernel has something to say of one.
    pub(super) fn stir(&mut self, key: usize, flags: EventFlags) {
        let one = self.shakes.slab.get(key);
        let owes = one.is_some_and(|one| !one.tls.owed.is_empty());
        if owes || flags != EventFlags::OUT {
            self.shakes.queue(key);
        }
    }

    /// Goes on with those who have something to compute, in the order in which they came.
    pub(super) fn shake_on(&mut self) {
        if !self.shakes.wants_turn() {
            return;
        }
        let begun = Instant::now();
        while let Some((key, token)) = self.shakes.queue.pop_front() {
            match self.shakes.slab.get_mut(key) {
                Some(one) if one.token == token => one.queued = false,
                _ => continue, // it is over, or was abandoned
            }
            let went = caught(|| self.step(key));
            let outcome = match went {
                Ok(Ok(false)) => None,
                Ok(Ok(true)) => Some(None),
                Ok(Err(why)) => Some(Some(why)),
                Err(mishap) => Some(Some(Unshaken::Broken(mishap.to_string()))),
            };
            if let Some(failure) = outcome {
                let one = self.shakes.slab.remove(key);
                self.let_go(one, failure);
            }
            if begun.elapsed() >= SHARE {
                return;
            }
        }
    }

    /// As far as it goes; whether it is over.
    fn step(&mut self, key: usize) -> Result<bool, Unshaken> {
        let one = &mut self.shakes.slab[key];
        let (mut clear, mut out) = (take(&mut self.tools.clear), take(&mut self.tools.sealed));
        let went = one.go_on(&mut self.tools.records, &mut clear, &mut out);
        (self.tools.clear, self.tools.sealed) = (clear, out);
        went
    }

    /// When the engine ends: those who came here are somebody else's to count; whoever waits for another goes, too.
    pub(super) fn abandon_shaking(&mut self) {
        for (_, one) in take(&mut self.shakes.slab) {
            match one.whose {
                Whose::Given(_, socket) => _ = epoll::delete(&self.epoll, &socket),
                Whose::Guest(guest) => {
                    let tls = begun(one.tls, &one.said).map(Ok);
                    self.hand_over(guest.0, None, None, tls);
                }
            }
        }
    }
}

/// What others can go on with. Where its turn has not come yet, nothing that was `said` is known to its TLS: they begin anew.
fn begun(tls: Box<Tls>, said: &[u8]) -> Option<Box<Tls>> {
    said.is_empty().then_some(tls)
}

impl<T> Shaking<T> {
    fn go_on(
        &mut self,
        records: &mut [u8],
        clear: &mut Scratch,
        out: &mut Scratch,
    ) -> Result<bool, Unshaken> {
        clear.clear();
        out.clear();
        self.pay()?;
        let said = take(&mut self.said);
        let begins = !said.is_empty() || self.tls.begins();
        if begins {
            self.hear(|tls, out| tls.receive_all(&said, clear, out), out)?;
        }
        while self.tls.is_handshaking() {
            let rest = self.tls.put_rest(records);
            let room = records.len() - REST;
            let heard = recv(
                self.whose.socket(),
                &mut records[rest..rest + room],
                RecvFlags::empty(),
            );
            let count = match heard {
                Ok((_, 0)) => return Err(Unshaken::Closed),
                Ok((_, count)) => count,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return Ok(false),
                Err(error) => return Err(Unshaken::Lost(error)),
            };
            out.clear();
            let incoming = &mut records[..rest + count];
            if incoming.starts_with(&GOODBYE) || incoming.starts_with(&GOODBYE_OLD) {
                return Err(Unshaken::Failed(Failure::goodbye())); // rustls would wait for what comes after it
            }
            self.hear(|tls, out| tls.receive(incoming, clear, out), out)?;
        }
        if !clear.is_empty() {
            self.tls.keep_clear(clear);
            clear.clear();
        }
        Ok(self.is_over())
    }

    fn is_over(&self) -> bool {
        !self.tls.is_handshaking() && self.tls.owed.is_empty()
    }

    /// Lets TLS have what came, and sends what it answers.
    fn hear(
        &mut self,
        receive: impl FnOnce(&mut Tls, &mut Scratch) -> Result<(), Failure>,
        out: &mut Scratch,
    ) -> Result<(), Unshaken> {
        let went = receive(&mut self.tls, out);
        self.tls.owed.extend_from_slice(out);
        let paid = self.pay();
        went.map_err(Unshaken::Failed)?; // it says more than that its alert did not go out
        paid
    }

    fn pay(&mut self) -> Result<(), Unshaken> {
        let mut paid = 0;
        while paid < self.tls.owed.len() {
            match send(
                self.whose.socket(),
                &self.tls.owed[paid..],
                SendFlags::NOSIGNAL,
            ) {
                Ok(count) => paid += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(Unshaken::Lost(error)),
            }
        }
        if paid == self.tls.owed.len() {
            self.tls.owed = Vec::new();
        } else {
            self.tls.owed.drain(..paid);
        }
        Ok(())
    }
}
