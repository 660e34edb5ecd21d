//! Handshakes: whose socket it is, and what is made of their end, is for others to say.
//!
//! The arithmetic of one takes as long as a hundred messages do, so those who play must not wait for a storm of them: who has
//! something to compute stands in a queue, of which each turn works off what fits into `SHARE`.

use std::collections::VecDeque;
use std::mem::take;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use slab::Slab;

use super::mishap::caught;
use super::{Engine, SESSION_EVENTS, SHAKING};
use crate::tls::{Failure, REST, Tls};

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
    socket: OwnedFd,
    tls: Box<Tls>,
    /// What was read of it before.
    said: Vec<u8>,
    /// What it did not take yet.
    debt: Vec<u8>,
    owner: T,
    queued: bool,
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

    fn queue(&mut self, key: usize) {
        if let Some(one) = self.slab.get_mut(key)
            && !one.queued
        {
            one.queued = true;
            self.queue.push_back((key, one.token));
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
        let entry = self.shakes.slab.vacant_entry();
        let key = entry.key();
        let data = EventData::new_u64(SHAKING | key as u64);
        if let Err(error) = epoll::add(&self.epoll, &socket, data, SESSION_EVENTS) {
            let outcome = Err(Unshaken::Lost(error));
            self.shaken.push(Shaken { owner, outcome });
            return;
        }
        entry.insert(Shaking {
            token,
            socket,
            tls,
            said,
            debt: Vec::new(),
            owner,
            queued: false,
        });
        self.shakes.queue(key);
    }

    /// Nobody waits for it any more.
    pub(super) fn abandon(&mut self, token: u64) {
        let found = self.shakes.slab.iter().find(|(_, one)| one.token == token);
        if let Some((key, _)) = found {
            let one = self.shakes.slab.remove(key);
            let _ = epoll::delete(&self.epoll, &one.socket); // a copy of it may live on elsewhere
        }
    }

    /// The kernel has something to say of one.
    pub(super) fn stir(&mut self, key: usize, flags: EventFlags) {
        let one = self.shakes.slab.get(key);
        let owes = one.is_some_and(|one| !one.debt.is_empty());
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
                let _ = epoll::delete(&self.epoll, &one.socket);
                drop(one.socket); // before anybody hears of it
                let outcome = failure.map_or(Ok(one.tls), Err);
                self.shaken.push(Shaken {
                    owner: one.owner,
                    outcome,
                });
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

    /// Those that are not over when the engine ends are never told of: whoever waits goes, too.
    pub(super) fn abandon_shaking(&mut self) {
        for (_, one) in take(&mut self.shakes.slab) {
            let _ = epoll::delete(&self.epoll, &one.socket);
        }
    }
}

impl<T> Shaking<T> {
    fn go_on(
        &mut self,
        records: &mut [u8],
        clear: &mut Vec<u8>,
        out: &mut Vec<u8>,
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
                &self.socket,
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
        Ok(self.debt.is_empty())
    }

    /// Lets TLS have what came, and sends what it answers.
    fn hear(
        &mut self,
        receive: impl FnOnce(&mut Tls, &mut Vec<u8>) -> Result<(), Failure>,
        out: &mut Vec<u8>,
    ) -> Result<(), Unshaken> {
        let went = receive(&mut self.tls, out);
        self.debt.extend_from_slice(out);
        let paid = self.pay();
        went.map_err(Unshaken::Failed)?; // it says more than that its alert did not go out
        paid
    }

    fn pay(&mut self) -> Result<(), Unshaken> {
        let mut paid = 0;
        while paid < self.debt.len() {
            match send(&self.socket, &self.debt[paid..], SendFlags::NOSIGNAL) {
                Ok(count) => paid += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(Unshaken::Lost(error)),
            }
        }
        if paid == self.debt.len() {
            self.debt = Vec::new();
        } else {
            self.debt.drain(..paid);
        }
        Ok(())
    }
}
