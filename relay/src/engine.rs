//! The thread that owns the sessions: one epoll, edge-triggered, each socket registered once for all.
//!
//! Others speak to it through a queue of commands and an eventfd; it answers with a list of ends and another eventfd. Time
//! comes from outside too (`Handle::tick`), so that it is the same time that the rest of the process lives in.

use std::collections::HashMap;
use std::io;
use std::mem::take;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use slab::Slab;

use crate::deadlines::Deadlines;
use crate::session::{End, Pumped, Session, Side};

const EVENTS: usize = 256; // taken from epoll at once
const SHARE: usize = 256 * 1024; // bytes that one direction may move before others have their turn
const WAKE: u64 = u64::MAX; // the eventfd of the commands, among the keys of sockets
const NEVER: u64 = u64::MAX;

/// How long a session may do nothing, or last, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Without a byte in either direction.
    pub idle: u64,
    /// The same once one side has ended.
    pub half_close: u64,
    /// Altogether; None: no limit.
    pub session: Option<u64>,
}

/// One session's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended<T = ()> {
    /// The session.
    pub token: u64,
    /// What was handed over with it.
    pub owner: T,
    /// How.
    pub end: End,
    /// Bytes handed to the kernel for the upstream.
    pub to_upstream: u64,
    /// Bytes handed to the kernel for the client.
    pub to_client: u64,
}

enum Command<T> {
    Start(u64, Session, Times, T),
    Kill(u64),
    Tick(u64),
    Counts(u64, SyncSender<Option<(u64, u64)>>),
    Stop,
}

struct Shared<T> {
    commands: Mutex<Option<Vec<Command<T>>>>, // None: nobody is there to obey any more
    wake: OwnedFd,
    ended: Mutex<Vec<Ended<T>>>,
    done: OwnedFd,
}

/// What the rest of the process holds of an engine. `T` is given back with each session's end.
pub struct Handle<T: Send + 'static = ()> {
    shared: Arc<Shared<T>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    next_token: AtomicU64,
}

impl<T: Send + 'static> Handle<T> {
    /// Starts the thread; `buffer_size` in bytes.
    ///
    /// # Errors
    ///
    /// When the kernel has no descriptor or no thread left.
    pub fn start(buffer_size: usize) -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let shared = Arc::new(Shared {
            commands: Mutex::new(Some(Vec::new())),
            wake: eventfd(0, flags)?,
            ended: Mutex::default(),
            done: eventfd(0, flags)?,
        });
        let engine = Engine::new(Arc::clone(&shared), buffer_size)?;
        let thread = std::thread::Builder::new()
            .name("relay".into())
            .spawn(move || engine.run())?;
        Ok(Self {
            shared,
            thread: Mutex::new(Some(thread)),
            next_token: AtomicU64::new(1),
        })
    }

    /// Hands a session over; its token.
    pub fn adopt(&self, session: Session, times: Times, owner: T) -> u64 {
        let token = self.next_token.fetch_add(1, Ordering::Relaxed);
        self.send(Command::Start(token, session, times, owner));
        token
    }

    /// Ends a session, unless it has ended.
    pub fn kill(&self, token: u64) {
        self.send(Command::Kill(token));
    }

    /// Says what time it is, in milliseconds; to be called every `TICK`.
    pub fn tick(&self, now: u64) {
        self.send(Command::Tick(now));
    }

    /// Bytes that a session has moved so far, to the upstream and to the client; None once its end was taken.
    ///
    /// Waits for the engine's next turn.
    pub fn counts(&self, token: u64) -> Option<(u64, u64)> {
        let (sender, receiver) = sync_channel(1);
        self.send(Command::Counts(token, sender));
        let living = receiver.recv().ok().flatten();
        living.or_else(|| {
            let ended = lock(&self.shared.ended);
            let end = ended.iter().find(|end| end.token == token)?;
            Some((end.to_upstream, end.to_client))
        })
    }

    /// Becomes readable when sessions have ended.
    pub fn done(&self) -> BorrowedFd<'_> {
        self.shared.done.as_fd()
    }

    /// The sessions that ended since the last call.
    pub fn ended(&self) -> Vec<Ended<T>> {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.shared.done, &mut count); // nothing there: a list taken before
        take(&mut *lock(&self.shared.ended))
    }

    /// Ends every session and the thread; what is left is in `ended`.
    pub fn stop(&self) {
        self.send(Command::Stop);
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join(); // a panic has been printed by then
        }
    }

    fn send(&self, command: Command<T>) {
        match &mut *lock(&self.shared.commands) {
            Some(commands) => {
                commands.push(command);
                if commands.len() == 1 {
                    signal(&self.shared.wake);
                }
            }
            None => self.shared.turn_away(command),
        }
    }
}

impl<T> Shared<T> {
    /// What comes too late: a session ends at once, and who waits for an answer gets none.
    fn turn_away(&self, command: Command<T>) {
        if let Command::Start(token, session, _, owner) = command {
            drop(session); // closes its sockets before anybody hears of its end
            lock(&self.ended).push(Ended {
                token,
                owner,
                end: End::Stopped,
                to_upstream: 0,
                to_client: 0,
            });
            signal(&self.done);
        }
    }
}

impl<T: Send + 'static> Drop for Handle<T> {
    fn drop(&mut self) {
        self.stop();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes an eventfd readable.
fn signal(eventfd: &OwnedFd) {
    // It fails only when the counter is at its end, and then it is readable.
    let _ = rustix::io::write(eventfd, &1_u64.to_ne_bytes());
}

#[allow(clippy::struct_excessive_bools)] // in which lists it is, and how far it has come
struct Entry<T> {
    token: u64,
    owner: T,
    session: Session,
    times: Times,
    last_active: u64,
    ends_at: u64,
    bucket: u64, // where it is filed
    half_closed: bool,
    again: bool,  // it is in the list of those that have more to move
    active: bool, // it is in the list of those that have moved bytes since the last tick
    file: bool,   // it must be filed at the next tick
}

impl<T> Entry<T> {
    fn due(&self) -> u64 {
        let idle = if self.half_closed {
            self.times.idle.min(self.times.half_close)
        } else {
            self.times.idle
        };
        self.last_active.saturating_add(idle).min(self.ends_at)
    }
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
    buffer: Vec<u8>,
    now: u64,
    stopping: bool,
}

impl<T> Engine<T> {
    fn new(shared: Arc<Shared<T>>, buffer_size: usize) -> io::Result<Self> {
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
            buffer: vec![0; buffer_size],
            now: 0,
            stopping: false,
        })
    }

    fn run(mut self) {
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
            self.report();
        }
        for key in self.entries.iter().map(|(key, _)| key).collect::<Vec<_>>() {
            self.end(key, End::Stopped);
        }
        self.report();
        let late = lock(&self.shared.commands).take();
        for command in late.into_iter().flatten() {
            self.shared.turn_away(command);
        }
    }

    fn wait(&mut self, events: &mut Vec<Event>) {
        let at_once = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let timeout = (!self.again.is_empty()).then_some(&at_once);
        match epoll::wait(&self.epoll, spare_capacity(events), timeout) {
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
        let key = usize::try_from(data >> 1).unwrap_or(usize::MAX);
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
            self.move_bytes(key);
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
        let entry = &mut self.entries[key];
        let before = entry.session.counts();
        let mut more = false;
        for from in [Side::Client, Side::Upstream] {
            match entry.session.pump(from, &mut self.buffer, SHARE) {
                Ok(pumped) => more |= pumped == Pumped::HasMore,
                Err(end) => {
                    self.end(key, end);
                    return;
                }
            }
        }
        if entry.session.is_over() {
            let first = entry.session.first_end.unwrap_or(Side::Client);
            self.end(key, End::Closed(first));
            return;
        }
        if more && !entry.again {
            entry.again = true;
            self.again.push(key);
        }
        let just_half_closed = entry.session.first_end.is_some() && !entry.half_closed;
        entry.half_closed |= just_half_closed;
        entry.file |= just_half_closed;
        if (just_half_closed || entry.session.counts() != before) && !entry.active {
            entry.active = true;
            self.active.push(key);
        }
    }

    fn obey(&mut self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.shared.wake, &mut count);
        let commands = lock(&self.shared.commands).as_mut().map(take);
        let commands = commands.unwrap_or_default();
        for command in &commands {
            if let Command::Tick(now) = command {
                self.tick(*now);
            }
        }
        for command in commands {
            match command {
                Command::Start(token, session, times, owner) => {
                    self.adopt(token, session, times, owner);
                }
                Command::Kill(token) => {
                    if let Some(&key) = self.keys.get(&token) {
                        self.end(key, End::Killed);
                    }
                }
                Command::Tick(_) => {}
                Command::Counts(token, answer) => {
                    // Whoever asked may be gone.
                    let _ = answer.send(self.counts(token));
                }
                Command::Stop => self.stopping = true,
            }
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

    fn adopt(&mut self, token: u64, session: Session, times: Times, owner: T) {
        let key = self.entries.insert(Box::new(Entry {
            token,
            owner,
            session,
            times,
            last_active: 0,
            ends_at: NEVER,
            bucket: NEVER,
            half_closed: false,
            again: false,
            active: true,
            file: true,
        }));
        self.active.push(key);
        self.keys.insert(token, key);
        let entry = &self.entries[key];
        let flags =
            EventFlags::IN | EventFlags::OUT | EventFlags::PRI | EventFlags::RDHUP | EventFlags::ET;
        for side in [Side::Client, Side::Upstream] {
            let data = EventData::new_u64((key as u64) << 1 | side as u64);
            let added = epoll::add(&self.epoll, entry.session.socket(side), data, flags);
            if let Err(error) = added {
                self.end(key, End::Lost(side, error));
                return;
            }
        }
        self.move_bytes(key);
    }

    fn tick(&mut self, now: u64) {
        self.now = now;
        for key in take(&mut self.active) {
            self.note(key);
        }
        while let Some((bucket, keys)) = self.deadlines.due(now) {
            for key in keys {
                self.look_at(key, bucket);
            }
        }
    }

    /// Dates what a session did since the last tick: as late as it may have been, so that no timeout comes early.
    fn note(&mut self, key: usize) {
        let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.active) else {
            return; // it has ended
        };
        entry.active = false;
        entry.last_active = self.now;
        if entry.ends_at == NEVER {
            let lasts = entry.times.session.unwrap_or(NEVER);
            entry.ends_at = self.now.saturating_add(lasts);
        }
        if take(&mut entry.file) {
            entry.bucket = self.deadlines.file(key, entry.due());
        }
    }

    /// Ends a session whose time has come, or files it anew. It may be gone, or filed elsewhere meanwhile.
    fn look_at(&mut self, key: usize, bucket: u64) {
        let Some(entry) = self.entries.get_mut(key).filter(|one| one.bucket == bucket) else {
            return;
        };
        if entry.due() > self.now {
            entry.bucket = self.deadlines.file(key, entry.due());
        } else if entry.ends_at <= self.now {
            self.end(key, End::TimeUp);
        } else if let Some(first) = entry.session.first_end {
            self.end(key, End::NeverClosed(first));
        } else {
            self.end(key, End::Idle);
        }
    }

    /// Forgets a session; its sockets are closed with it, which takes them out of epoll too.
    fn end(&mut self, key: usize, end: End) {
        let entry = self.entries.remove(key);
        self.keys.remove(&entry.token);
        let (to_upstream, to_client) = entry.session.counts();
        self.ended.push(Ended {
            token: entry.token,
            owner: entry.owner,
            end,
            to_upstream,
            to_client,
        });
    }

    /// Hands the ends of this turn over at once.
    fn report(&mut self) {
        if !self.ended.is_empty() {
            lock(&self.shared.ended).append(&mut self.ended);
            signal(&self.shared.done);
        }
    }
}
