//! What others tell the engine to do, and ask it: carried out between two looks at the sockets, in the order in which it came.

use std::collections::HashMap;
use std::mem::take;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use rustix::event::epoll;

use super::entry::Owner;
use super::listening::Terms;
use super::told::lock;
use super::{Engine, SESSION_EVENTS, Times, session_data};
use crate::meter::Meter;
use crate::plans::Plan;
use crate::session::{End, Session, Side};
use crate::tls::Tls;

/// Sessions that go by one plan to one of its nodes.
pub struct Playing<T> {
    /// The plan.
    pub plan: Arc<Plan<T>>,
    /// Which of its nodes.
    pub node: usize,
    /// How many there are, with those that are still connecting.
    pub sessions: usize,
}

pub(super) enum Command<T> {
    Start(u64, Session, Times, Option<Arc<Meter>>, T),
    Shake(u64, OwnedFd, Box<Tls>, Vec<u8>, T),
    Abandon(u64),
    Kill(u64),
    Tick(u64),
    Counts(u64, SyncSender<Option<(u64, u64)>>),
    Drain {
        after: u64,
        spread: u64,
    },
    Undrain,
    Playing(SyncSender<Vec<Playing<T>>>),
    Held(SyncSender<usize>),
    Shed(usize, SyncSender<usize>),
    Listen(usize, OwnedFd, Terms),
    Unlisten(usize, usize, SyncSender<()>),
    Stop,
    #[cfg(test)]
    Trap(Trap),
}

/// Where a test wants a panic, once.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trap {
    /// In the next turn of any session.
    Turn,
    /// Where a first flight is read.
    Read,
    /// Where somebody's first flight is heard.
    Hear,
    /// Where somebody has become a session, by a plan.
    SetOut,
    /// Where commands are carried out.
    Engine,
    /// Where the engine ends.
    WindUp,
}

impl<T: Send + Sync> Engine<T> {
    pub(super) fn obey(&mut self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.shared.wake, &mut count);
        let commands = lock(&self.shared.commands).as_mut().map(take);
        self.orders.extend(commands.into_iter().flatten());
        for place in 0..self.orders.len() {
            match self.orders[place] {
                Command::Tick(now) => self.tick(now),
                // Before the ticks that come after it, too: they must end nobody by a drain that was taken back.
                Command::Undrain => self.undrain(),
                _ => {}
            }
        }
        while let Some(command) = self.orders.pop_front() {
            match command {
                Command::Start(token, session, times, meter, owner) => {
                    self.adopt(token, session, times, meter, owner);
                }
                Command::Shake(token, socket, tls, said, owner) => {
                    self.shake(token, socket, tls, said, owner);
                }
                Command::Abandon(token) => self.abandon(token),
                Command::Listen(number, socket, terms) => self.listen(number, socket, terms),
                Command::Unlisten(number, most, done) => {
                    self.unlisten(number, most);
                    _ = done.send(()); // whoever asked may be gone
                }
                Command::Kill(token) => {
                    if let Some(&key) = self.keys.get(&token) {
                        self.end(key, End::Killed);
                    }
                }
                Command::Tick(_) => {}
                Command::Drain { after, spread } => self.drain(after, spread),
                Command::Undrain => self.undrain(),
                // Whoever asked may be gone.
                Command::Playing(answer) => _ = answer.send(self.playing()),
                Command::Held(answer) => _ = answer.send(self.held()),
                Command::Shed(than, answer) => _ = answer.send(self.shed(than)),
                Command::Counts(token, answer) => _ = answer.send(self.counts(token)),
                Command::Stop => self.stopping = true,
                #[cfg(test)]
                Command::Trap(trap) => {
                    self.traps.push(trap);
                    self.trip(Trap::Engine);
                }
            }
        }
    }

    #[cfg(test)]
    pub(super) fn trip(&mut self, trap: Trap) {
        if let Some(place) = self.traps.iter().position(|&one| one == trap) {
            self.traps.remove(place);
            panic!("a trap: {trap:?}");
        }
    }

    /// Of a session that lives, or has ended in this turn.
    fn counts(&self, token: u64) -> Option<(u64, u64)> {
        if let Some(&key) = self.keys.get(&token) {
            return Some(self.entries[key].session.counts());
        }
        let end = self.ended.iter().find(|end| end.token == token)?;
        Some((end.to_upstream, end.to_client))
    }

    /// How many sessions go by each plan, to each of its nodes.
    fn playing(&self) -> Vec<Playing<T>> {
        let mut found: HashMap<_, Playing<T>> = HashMap::new();
        for (_, entry) in &self.entries {
            if let Owner::Plan(course) = &entry.owner {
                let one = found.entry((Arc::as_ptr(&course.plan), course.node));
                let none = || Playing {
                    plan: Arc::clone(&course.plan),
                    node: course.node,
                    sessions: 0,
                };
                one.or_insert_with(none).sessions += 1;
            }
        }
        found.into_values().collect()
    }

    /// Bytes that are held for all sessions.
    fn held(&self) -> usize {
        let sessions = self.entries.iter();
        sessions.map(|(_, entry)| entry.session.held()).sum()
    }

    /// Ends whoever holds the most, if that is more than so many bytes; how many, 0 where nobody ended.
    fn shed(&mut self, than: usize) -> usize {
        let sessions = self.entries.iter();
        let held = sessions.map(|(key, entry)| (entry.session.held(), key));
        let Some((most, key)) = held.max().filter(|&(most, _)| most > than) else {
            return 0;
        };
        // Bytes will be missing, which an end would not say; and the kernel lets go of its share at once.
        for side in [Side::Client, Side::Upstream] {
            self.entries[key].session.reset(side);
        }
        self.end(key, End::Shed);
        most
    }

    fn adopt(
        &mut self,
        token: u64,
        session: Session,
        times: Times,
        meter: Option<Arc<Meter>>,
        owner: T,
    ) {
        let key = self.insert(token, session, times, meter, Owner::Given(owner), false);
        let entry = &self.entries[key];
        for side in [Side::Client, Side::Upstream] {
            let socket = entry.session.socket(side);
            let added = epoll::add(&self.epoll, socket, session_data(key, side), SESSION_EVENTS);
            if let Err(error) = added {
                self.end(key, End::Lost(side, error));
                return;
            }
        }
        self.move_bytes(key);
    }
}
