//! The thread that owns the sessions: one epoll, edge-triggered, each socket registered once for all.
//!
//! Others speak to it through a queue of commands (`handle`); it answers with lists. Time comes from outside too
//! (`Handle::tick`), so that it is the same time that the rest of the process lives in. Sessions are handed over, or come in
//! by a listener (`arrivals`).

mod arrivals;
mod ending;
mod entry;
mod handle;
mod listening;
mod mishap;
mod orders;
mod setting_out;
mod shaking;
mod time;
mod told;
mod waiting;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::mem::take;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::io::Errno;
use slab::Slab;

pub use self::arrivals::{Arrival, Played, Tried};
use self::entry::{Entry, Owner};
use self::handle::Shared;
pub use self::handle::{Ended, Handle, Times};
use self::listening::Listening;
pub use self::listening::Terms;
use self::orders::Command;
pub use self::orders::Playing;
#[cfg(test)]
use self::orders::Trap;
use self::shaking::Shakes;
pub use self::shaking::{Shaken, Unshaken};
use self::waiting::{Pending, Waiting};
use crate::deadlines::Deadlines;
use crate::meter::Meter;
use crate::pace::Pace;
use crate::session::{End, Pumped, Session, Side};
use crate::tools::Tools;

const EVENTS: usize = 256; // taken from epoll at once
const SHARE: usize = 256 * 1024; // bytes that one direction may move before others have their turn
const NEVER: u64 = u64::MAX;

// What an event is about: the eventfd of the commands, a listener, somebody who waits or shakes hands, or a side of a session.
const WAKE: u64 = u64::MAX;
const LISTENER: u64 = 1 << 62;
const WAITING: u64 = 1 << 61;
const SHAKING: u64 = 1 << 60;
const SESSION_EVENTS: EventFlags = EventFlags::IN
    .union(EventFlags::OUT)
    .union(EventFlags::PRI)
    .union(EventFlags::RDHUP)
    .union(EventFlags::ET);

fn session_data(key: usize, side: Side) -> EventData {
    EventData::new_u64((key as u64) << 1 | side as u64)
}

struct Engine<T> {
    shared: Arc<Shared<T>>,
    epoll: OwnedFd,
    entries: Slab<Box<Entry<T>>>, // boxed: a slab grows by doubling
    keys: HashMap<u64, usize>,
    deadlines: Deadlines,
    again: Vec<usize>,
    active: Vec<usize>,
    ended: Vec<Ended<T>>,
    played: Vec<Played<T>>,
    shakes: Shakes<T>,
    shaken: Vec<Shaken<T>>,
    listening: Vec<Option<Listening>>,
    waiting: Slab<Waiting>,
    pending: Vec<Pending>, // since the last tick
    late: Vec<Pending>,    // since the one before
    arrivals: Vec<Arrival<T>>,
    accepted: u64,
    seed: u64,
    paced: BTreeSet<(u64, usize)>, // who waits for its allowance until when, in microseconds
    clock: Instant,
    tools: Tools,
    now: u64,
    orders: VecDeque<Command<T>>, // not carried out yet
    stopping: bool,
    #[cfg(test)]
    traps: Vec<Trap>,
}

impl<T: Send + Sync> Engine<T> {
    fn new(shared: Arc<Shared<T>>, tools: Tools) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(
            &epoll,
            &shared.wake,
            EventData::new_u64(WAKE),
            EventFlags::IN,
        )?;
        Ok(Self {
            shared,
            epoll,
            entries: Slab::new(),
            keys: HashMap::new(),
            deadlines: Deadlines::default(),
            again: Vec::new(),
            active: Vec::new(),
            ended: Vec::new(),
            played: Vec::new(),
            shakes: Shakes::default(),
            shaken: Vec::new(),
            listening: Vec::new(),
            waiting: Slab::new(),
            pending: Vec::new(),
            late: Vec::new(),
            arrivals: Vec::new(),
            accepted: 0,
            seed: RandomState::new().hash_one(0),
            paced: BTreeSet::new(),
            clock: Instant::now(),
            tools,
            now: 0,
            orders: VecDeque::new(),
            stopping: false,
            #[cfg(test)]
            traps: Vec::new(),
        })
    }

    fn live(&mut self) {
        let mut events = Vec::with_capacity(EVENTS);
        while !self.stopping {
            self.wait(&mut events);
            // Commands first, and ticks before others: a tick must not date what came after it was sent.
            if events.iter().any(|event| event.data.u64() == WAKE) {
                self.obey();
            }
            for event in events.drain(..) {
                self.handle(&event);
            }
            for key in take(&mut self.again) {
                self.go_on(key);
            }
            self.go_on_paced();
            self.shake_on();
            self.report();
        }
    }

    /// Nobody is left after it.
    fn wind_up(mut self) {
        let end = self.shared.last_end();
        #[cfg(test)]
        self.trip(Trap::WindUp);
        for key in self.entries.iter().map(|(key, _)| key).collect::<Vec<_>>() {
            self.end(key, end.clone());
        }
        self.listening.clear(); // nobody else comes
        self.abandon_waiting();
        self.abandon_shaking();
        self.report();
        for order in take(&mut self.orders) {
            self.shared.turn_away(order);
        }
    }

    fn wait(&mut self, events: &mut Vec<Event>) {
        let pause = if self.again.is_empty() && !self.shakes.wants_turn() {
            let due = self.paced.first().map(|&(due, _)| due);
            due.map(|due| due.saturating_sub(self.microseconds()))
        } else {
            Some(0)
        };
        let timeout = pause.and_then(|pause| Duration::from_micros(pause).try_into().ok());
        match epoll::wait(&self.epoll, spare_capacity(events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => panic!("epoll: {error}"),
        }
    }

    fn handle(&mut self, event: &Event) {
        // Copied: the kernel's struct is packed.
        let (flags, data) = (event.flags, event.data.u64());
        if data == WAKE {
            return;
        }
        let number = |tag: u64| usize::try_from(data & !tag).unwrap_or(usize::MAX);
        if data & LISTENER != 0 {
            self.accept(number(LISTENER));
            return;
        }
        if data & WAITING != 0 {
            self.hear_more(number(WAITING));
            return;
        }
        if data & SHAKING != 0 {
            self.stir(number(SHAKING), flags);
            return;
        }
        let key = number(0) >> 1;
        let side = if data & 1 == 0 {
            Side::Client
        } else {
            Side::Upstream
        };
        // Its session may have ended earlier in this turn.
        if let Some(entry) = self.entries.get_mut(key) {
            // After urgent data too (PRI) a short read is not the last: it ends before the urgent byte.
            let read_on = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR | EventFlags::PRI;
            let (readable, writable) = (
                flags.contains(EventFlags::IN),
                flags.contains(EventFlags::OUT),
            );
            entry
                .session
                .announce(side, readable, writable, flags.intersects(read_on));
            match (entry.connecting, side) {
                (false, _) => self.move_bytes(key),
                (true, Side::Upstream) => self.turn_of(key, |engine| engine.connected(key, flags)),
                (true, Side::Client) => {} // it is heard once there is somebody to hear it
            }
        }
    }

    fn go_on(&mut self, key: usize) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.again = false;
            self.move_bytes(key);
        }
    }

    /// Lets both directions of a session have their share.
    fn move_bytes(&mut self, key: usize) {
        self.turn_of(key, |engine| engine.pump(key));
    }

    fn pump(&mut self, key: usize) {
        #[cfg(test)]
        self.trip(Trap::Turn);
        let paced = self.entries[key].pace.is_some();
        let now = if paced { self.microseconds() } else { 0 };
        let entry = &mut self.entries[key];
        let before = entry.session.counts();
        let (mut more, mut due) = (false, None);
        for from in [Side::Client, Side::Upstream] {
            let cap = entry.pace.as_ref();
            let cap = cap.map_or(usize::MAX, |pace| pace.allowance(from, now));
            match entry.session.pump(from, &mut self.tools, SHARE, cap) {
                Ok(pumped) => {
                    more |= pumped == Pumped::HasMore;
                    if let Some(pace) = &mut entry.pace {
                        pace.spend(from, entry.session.moved_since(from, before), now);
                        if pumped == Pumped::Capped {
                            let ready = pace.ready_at(from);
                            due = Some(due.map_or(ready, |due: u64| due.min(ready)));
                        }
                    }
                }
                Err(end) => {
                    self.end(key, end);
                    return;
                }
            }
        }
        if entry.session.is_over() {
            let end = entry.session.gentle_end();
            self.end(key, end);
            return;
        }
        if more && !entry.again {
            entry.again = true;
            self.again.push(key);
        }
        if let (Some(due), Some(pace)) = (due, &mut entry.pace) {
            if pace.due.is_none_or(|before| due < before) {
                pace.due = Some(due);
                self.paced.insert((due, key));
            }
        }
        let just_half_closed = entry.session.first_end.is_some() && !entry.half_closed;
        entry.half_closed |= just_half_closed;
        entry.file |= just_half_closed;
        if just_half_closed || entry.session.counts() != before {
            self.count(key);
            self.activate(key);
        }
    }

    /// What a session has moved by now is known to all.
    fn count(&mut self, key: usize) {
        if self.entries[key].count() {
            let took = self.microseconds().saturating_sub(self.entries[key].begun);
            self.shared.seen.waits.answer.note(took);
        }
    }

    /// A session that epoll does not know yet; its key.
    fn insert(
        &mut self,
        token: u64,
        session: Session,
        times: Times,
        meter: Option<Arc<Meter>>,
        owner: Owner<T>,
        connecting: bool,
    ) -> usize {
        let mut pace = times.bandwidth.map(|rate| Box::new(Pace::new(rate)));
        if let Some(pace) = &mut pace {
            // What a plan has said to the game server before.
            pace.spend(Side::Client, session.counts().0, self.microseconds());
        }
        let begun = self.microseconds();
        let key = self.entries.insert(Box::new(Entry {
            token,
            owner,
            session,
            times,
            meter,
            counted: (0, 0),
            begun,
            answered: false,
            last_active: 0,
            ends_at: NEVER,
            drains_at: NEVER,
            pace,
            bucket: NEVER,
            half_closed: false,
            again: false,
            active: false,
            file: true,
            connecting,
        }));
        self.keys.insert(token, key);
        if !connecting {
            self.count(key);
            self.activate(key);
        }
        key
    }
}
