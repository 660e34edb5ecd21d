//! Those who come: accepting, reading what they ask for, and playing it by a plan, where there is one.
//!
//! Only what goes smoothly is done here. Whatever else happens (no plan, a hello that is not plain, a game server that does
//! not take the connection, one that is slow, or a client that is) becomes an `Arrival`, as far as it has come: Python knows
//! every rule, and a reason for every end. So no timeout of set-up is known here: who has waited for a whole tick is handed over.

use std::mem::take;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, getpeername, recv, send, sockopt};

use super::entry::{Course, Owner};
use super::handle::lock;
use super::listening::Guest;
use super::mishap::caught;
#[cfg(test)]
use super::orders::Trap;
use super::waiting::{Pending, Waiting};
use super::{Engine, SESSION_EVENTS, WAITING, session_data};
use crate::hello::Reading;
use crate::plans::Plan;
use crate::session::{End, Session, Side};

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
    /// How it ended.
    pub end: End,
    /// Bytes handed to the kernel for the upstream.
    pub to_upstream: u64,
    /// Bytes handed to the kernel for the client.
    pub to_client: u64,
    /// From accept to the whole hello.
    pub hello_took: Duration,
    /// From there to the connection with the game server; None: it never was.
    pub connect_took: Option<Duration>,
    /// From accept to its end.
    pub lasted: Duration,
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
            hello_at: (guest == Guest::Itself).then_some(0),
            split: false,
        };
        if has_place && guest != Guest::Stranger {
            self.hear(waiting, None);
        } else {
            self.hand_over(waiting, None, None);
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
            Reading::Name(name) => {
                let plan = lock(&self.shared.plans).find(waiting.listener, &name);
                match plan {
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
            return self.hand_over(waiting, None, None); // the kernel has no memory left
        }
        entry.insert(waiting);
        self.pending.push(Pending::Waiting(key, token));
    }

    /// To Python, out of epoll first.
    fn give_away(&mut self, waiting: Waiting, key: Option<usize>, failure: Option<Errno>) {
        if key.is_some() {
            let _ = epoll::delete(&self.epoll, &waiting.socket);
        }
        self.hand_over(waiting, failure, None);
    }

    fn hand_over(&mut self, waiting: Waiting, failure: Option<Errno>, tried: Option<Tried<T>>) {
        self.arrivals.push(Arrival {
            listener: waiting.listener,
            socket: waiting.socket,
            peer: waiting.peer,
            said: waiting.said,
            failure,
            waited: waiting.since.elapsed(),
            tried,
            split: waiting.split,
        });
    }

    /// Connects to the node whose turn it is, and says there what the client has said.
    fn set_out(
        &mut self,
        mut waiting: Waiting,
        key: Option<usize>,
        plan: Arc<Plan<T>>,
        emptied: bool,
    ) {
        let hello_took = waiting.since.elapsed();
        // From here on it is the client's connection: the header was for us.
        waiting.said.drain(..waiting.hello_at.unwrap_or(0));
        self.shared
            .seen
            .hello(&waiting.said, waiting.split, hello_took);
        plan.begin();
        waiting.peer = waiting.source;
        let node = plan.nodes.pick();
        // On loopback and in a quick network the connection stands at once; elsewhere this says AGAIN.
        let reached = plan.nodes.reach(node).and_then(|upstream| {
            match send(&upstream, &waiting.said, SendFlags::NOSIGNAL) {
                Ok(count) => Ok((upstream, Some(count))),
                Err(Errno::AGAIN | Errno::INTR) => Ok((upstream, None)),
                Err(error) => Err(error),
            }
        });
        let (upstream, sent) = match reached {
            Ok(reached) => reached,
            Err(error) => {
                if key.is_some() {
                    let _ = epoll::delete(&self.epoll, &waiting.socket);
                }
                let tried = Tried {
                    plan,
                    node,
                    outcome: Err(error),
                    hello_took,
                };
                return self.hand_over(waiting, None, Some(tried));
            }
        };
        let (times, meter) = (plan.times, plan.meter.clone());
        let mut course = Box::new(Course {
            plan,
            peer: waiting.peer,
            since: waiting.since,
            hello_took,
            connect_took: None,
            node,
            listener: waiting.listener,
        });
        if sent.is_some() {
            let took = waiting.since.elapsed().saturating_sub(hello_took);
            course.connect_took = Some(self.shared.seen.waits.connect.take(took));
        }
        let said = take(&mut waiting.said);
        let session = Session::begun(waiting.socket, upstream, said, sent, emptied);
        let connecting = sent.is_none();
        let place = self.insert(
            waiting.token,
            session,
            times,
            meter,
            Owner::Plan(course),
            connecting,
        );
        if connecting {
            self.pending.push(Pending::Connecting(place, waiting.token));
        }
        #[cfg(test)]
        self.trip(Trap::SetOut);
        let entry = &self.entries[place];
        let client = entry.session.socket(Side::Client);
        let data = session_data(place, Side::Client);
        let watched = if key.is_some() {
            epoll::modify(&self.epoll, client, data, SESSION_EVENTS)
        } else {
            epoll::add(&self.epoll, client, data, SESSION_EVENTS)
        };
        let upstream = entry.session.socket(Side::Upstream);
        let watched = watched.and_then(|()| {
            epoll::add(
                &self.epoll,
                upstream,
                session_data(place, Side::Upstream),
                SESSION_EVENTS,
            )
        });
        if let Err(error) = watched {
            self.end(place, End::Lost(Side::Client, error));
        }
    }

    /// The kernel has something to say of a connection on its way to a game server.
    pub(super) fn connected(&mut self, key: usize, flags: EventFlags) {
        let now = self.microseconds();
        let entry = &mut self.entries[key];
        let upstream = entry.session.socket(Side::Upstream);
        match sockopt::socket_error(upstream) {
            // What was said of a session that had its place before, and ended in this turn, may be taken for its own.
            Ok(Ok(())) if flags.contains(EventFlags::OUT) && getpeername(upstream).is_ok() => {
                entry.connecting = false;
                entry.begun = now;
                if let Owner::Plan(course) = &mut entry.owner {
                    let since_hello = course.since.elapsed().saturating_sub(course.hello_took);
                    course.connect_took = Some(self.shared.seen.waits.connect.take(since_hello));
                }
                self.activate(key); // its time begins
                self.move_bytes(key);
            }
            Ok(Ok(())) => {}
            Ok(Err(error)) | Err(error) => self.take_back(key, Some(error)),
        }
    }

    /// Hands over a session that has no game server yet. `failure`: why it got none; None: it is still on its way there.
    fn take_back(&mut self, key: usize, failure: Option<Errno>) {
        let entry = *self.entries.remove(key);
        self.keys.remove(&entry.token);
        let (client, upstream, said) = entry.session.into_parts();
        let Owner::Plan(course) = entry.owner else {
            unreachable!("only those who came here connect here");
        };
        for socket in [&client, &upstream] {
            let _ = epoll::delete(&self.epoll, socket);
        }
        let outcome = failure.map_or(Ok(upstream), Err);
        let waiting = Waiting {
            token: entry.token,
            listener: course.listener,
            socket: client,
            peer: course.peer,
            source: course.peer,
            since: course.since,
            said,
            hello_at: Some(0),
            split: false,
        };
        let tried = Tried {
            plan: course.plan,
            node: course.node,
            outcome,
            hello_took: course.hello_took,
        };
        self.hand_over(waiting, None, Some(tried));
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
