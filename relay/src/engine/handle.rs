//! What the rest of the process holds of an engine: the queue of commands into its thread, and the lists that come out of it.

use std::io;
use std::mem::take;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use super::Engine;
use super::arrivals::{Arrival, Played};
use super::listening::Terms;
use super::orders::{Command, Playing};
use super::shaking::Shaken;
use super::told::{Told, lock, signal};
use crate::meter::{Meter, Seen};
use crate::places::Places;
use crate::plans::{Plan, Plans};
use crate::session::{End, Session};
use crate::tls::Tls;
use crate::tools::Tools;

/// How long a session may do nothing, or last, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Without a byte in either direction.
    pub idle: u64,
    /// The same once one side has ended.
    pub half_close: u64,
    /// Altogether; None: no limit.
    pub session: Option<u64>,
    /// Bytes per second that each direction may move; None: no limit.
    pub bandwidth: Option<u64>,
}

/// The end of a session that was handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
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

pub(super) struct Shared<T> {
    pub(super) commands: Mutex<Option<Vec<Command<T>>>>, // None: nobody is there to obey any more
    pub(super) wake: OwnedFd,
    pub(super) ended: Told<Ended<T>>,
    pub(super) played: Told<Played<T>>,
    pub(super) arrivals: Told<Arrival<T>>,
    pub(super) shaken: Told<Shaken<T>>,
    pub(super) pauses: Mutex<Vec<Errno>>,
    pub(super) plans: Mutex<Plans<T>>,
    pub(super) places: Places,
    pub(super) accepted: AtomicU64,
    pub(super) seen: Seen,
    pub(super) mishap: Mutex<Option<Arc<str>>>,
}

/// What the rest of the process holds of an engine. `T` is given back with each session's end.
pub struct Handle<T: Send + Sync + 'static = ()> {
    pub(super) shared: Arc<Shared<T>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    next_token: AtomicU64,
    listeners: AtomicUsize,
}

impl<T: Send + Sync + 'static> Handle<T> {
    /// Starts the thread, which counts its sessions for itself and copies all that it moves; `buffer_size` in bytes.
    ///
    /// # Errors
    ///
    /// When the kernel has no descriptor or no thread left.
    pub fn start(buffer_size: usize) -> io::Result<Self> {
        Self::start_with(Tools::new(buffer_size, 0), Places::alone(u64::MAX))
    }

    /// Starts the thread; the sessions that it accepts itself are counted in `places`.
    ///
    /// # Errors
    ///
    /// As `start`.
    pub fn start_with(tools: Tools, places: Places) -> io::Result<Self> {
        let shared = Arc::new(Shared::new(places)?);
        let engine = Engine::new(Arc::clone(&shared), tools)?;
        let thread = std::thread::Builder::new()
            .name("relay".into())
            .spawn(move || engine.run())?;
        Ok(Self {
            shared,
            thread: Mutex::new(Some(thread)),
            next_token: AtomicU64::new(1),
            listeners: AtomicUsize::new(0),
        })
    }

    /// Hands a session over that is counted nowhere; its token.
    pub fn adopt(&self, session: Session, times: Times, owner: T) -> u64 {
        self.adopt_counted(session, times, None, owner)
    }

    /// Hands a session over; its token.
    pub fn adopt_counted(
        &self,
        session: Session,
        times: Times,
        meter: Option<Arc<Meter>>,
        owner: T,
    ) -> u64 {
        let token = self.next_token.fetch_add(1, Ordering::Relaxed);
        self.send(Command::Start(token, session, times, meter, owner));
        token
    }

    /// Begins a handshake on a socket of which `said` was read before; its token. The socket is a copy that nobody else uses
    /// meanwhile: it is closed when the handshake is over, and the connection with it, unless there is another copy.
    pub fn shake(&self, socket: OwnedFd, tls: Box<Tls>, said: Vec<u8>, owner: T) -> u64 {
        let token = self.next_token.fetch_add(1, Ordering::Relaxed);
        self.send(Command::Shake(token, socket, tls, said, owner));
        token
    }

    /// Gives a handshake up, unless it is over.
    pub fn abandon(&self, token: u64) {
        self.send(Command::Abandon(token));
    }

    /// Accepts from a listening socket, which does not block; its number among the listeners.
    pub fn listen(&self, listening: OwnedFd, terms: Terms) -> usize {
        let number = self.listeners.fetch_add(1, Ordering::Relaxed);
        self.send(Command::Listen(number, listening, terms));
        number
    }

    /// Accepts no more from it; its socket is closed when this returns. Whoever waits there is some other's to accept.
    pub fn unlisten(&self, listener: usize) {
        self.unlisten_after(listener, 0);
    }

    /// The same, after `most` of those who wait there were accepted, or fewer when there are no more, or no descriptor
    /// is left for them (`pauses` has it). Where there is no other copy of the socket, the kernel resets those who are left.
    pub fn unlisten_after(&self, listener: usize, most: usize) {
        // An engine that was stopped has closed it too.
        self.ask(|done| Command::Unlisten(listener, most, done));
    }

    /// From now on a listener's connections that ask for a name are played by this plan.
    pub fn learn(&self, listener: usize, name: &str, plan: Plan<T>) {
        let forgotten = lock(&self.shared.plans).learn(listener, name, plan);
        drop(forgotten); // after the lock
    }

    /// How many sessions there may be from now on, those of other workers among them.
    pub fn limit(&self, most: u64) {
        self.shared.places.limit(most);
    }

    /// All plans are off.
    pub fn forget(&self) {
        let forgotten = take(&mut *lock(&self.shared.plans));
        drop(forgotten); // after the lock
    }

    /// Ends a session, unless it has ended.
    pub fn kill(&self, token: u64) {
        self.send(Command::Kill(token));
    }

    /// Those who play now and still do in `after` milliseconds are ended then, one by one over `spread` milliseconds.
    pub fn drain(&self, after: u64, spread: u64) {
        self.send(Command::Drain { after, spread });
    }

    /// Takes back every end that `drain` has set: those who play go on as if it had never been asked for.
    pub fn undrain(&self) {
        self.send(Command::Undrain);
    }

    /// Says what time it is, in milliseconds; to be called every `TICK`.
    pub fn tick(&self, now: u64) {
        self.send(Command::Tick(now));
    }

    /// Bytes that a session has moved so far, to the upstream and to the client; None once its end was taken.
    ///
    /// Waits for the engine's next turn.
    pub fn counts(&self, token: u64) -> Option<(u64, u64)> {
        let living = self.ask(|answer| Command::Counts(token, answer));
        living.flatten().or_else(|| {
            let ended = self.shared.ended.list();
            let end = ended.iter().find(|end| end.token == token)?;
            Some((end.to_upstream, end.to_client))
        })
    }

    /// How many sessions there are by each plan. Waits for the engine's next turn.
    pub fn playing(&self) -> Vec<Playing<T>> {
        self.ask(Command::Playing).unwrap_or_default()
    }

    /// Bytes that are held for all sessions, since those whom they are for did not take them yet. Waits as `playing`.
    pub fn held(&self) -> usize {
        self.ask(Command::Held).unwrap_or_default()
    }

    /// Ends the session for which the most bytes are held, if they are more than `than`; how many, 0 where nobody ended.
    ///
    /// Waits as `playing`.
    pub fn shed(&self, than: usize) -> usize {
        self.ask(|answer| Command::Shed(than, answer))
            .unwrap_or_default()
    }

    /// Connections that were accepted so far.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// What is counted of all sessions.
    pub fn seen(&self) -> &Seen {
        &self.shared.seen
    }

    /// Why the thread ended without being told to; None: it did not. The process has no relay any more: it should end, too.
    pub fn mishap(&self) -> Option<Arc<str>> {
        lock(&self.shared.mishap).clone()
    }

    /// Readable when sessions that were handed over have ended, or there is a `mishap`.
    pub fn done(&self) -> BorrowedFd<'_> {
        self.shared.ended.news()
    }

    /// Readable when sessions that went by a plan have ended.
    pub fn over(&self) -> BorrowedFd<'_> {
        self.shared.played.news()
    }

    /// Readable when somebody has come for whom there is no plan.
    pub fn knocks(&self) -> BorrowedFd<'_> {
        self.shared.arrivals.news()
    }

    /// Readable when handshakes are over.
    pub fn shakes(&self) -> BorrowedFd<'_> {
        self.shared.shaken.news()
    }

    /// The handshakes that were over since the last call.
    pub fn shaken(&self) -> Vec<Shaken<T>> {
        self.shared.shaken.take()
    }

    /// The sessions that ended since the last call.
    pub fn ended(&self) -> Vec<Ended<T>> {
        self.shared.ended.take()
    }

    /// The same of those that went by a plan.
    pub fn played(&self) -> Vec<Played<T>> {
        self.shared.played.take()
    }

    /// Those who have come and are somebody else's to serve: from now on they count there.
    pub fn arrivals(&self) -> Vec<Arrival<T>> {
        let arrivals = self.shared.arrivals.take();
        self.shared.places.leave(arrivals.len() as u64);
        arrivals
    }

    /// Why accepting has paused since the last call, once for each time; `knocks` tells.
    pub fn pauses(&self) -> Vec<Errno> {
        take(&mut *lock(&self.shared.pauses))
    }

    /// Ends every session and the thread; what is left is in the lists.
    pub fn stop(&self) {
        self.send(Command::Stop);
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join();
        }
    }

    /// Waits for the answer, in the engine's next turn; None: it was stopped.
    fn ask<A>(&self, question: impl FnOnce(SyncSender<A>) -> Command<T>) -> Option<A> {
        let (sender, receiver) = sync_channel(1);
        self.send(question(sender));
        receiver.recv().ok()
    }

    pub(super) fn send(&self, command: Command<T>) {
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
    pub(super) fn new(places: Places) -> io::Result<Self> {
        Ok(Self {
            commands: Mutex::new(Some(Vec::new())),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            ended: Told::new()?,
            played: Told::new()?,
            arrivals: Told::new()?,
            shaken: Told::new()?,
            pauses: Mutex::default(),
            plans: Mutex::default(),
            places,
            accepted: AtomicU64::new(0),
            seen: Seen::default(),
            mishap: Mutex::default(),
        })
    }

    /// What comes too late: a session ends at once, and who waits for an answer gets none.
    pub(super) fn turn_away(&self, command: Command<T>) {
        if let Command::Start(token, session, _, _, owner) = command {
            drop(session); // closes its sockets before anybody hears of its end
            self.ended.tell(&mut vec![Ended {
                token,
                owner,
                end: self.last_end(),
                to_upstream: 0,
                to_client: 0,
            }]);
        }
    }

    /// The engine ends unasked; the first reason is the one.
    pub(super) fn note(&self, mishap: Arc<str>) {
        lock(&self.mishap).get_or_insert(mishap);
    }

    /// How those end whom the engine takes with it.
    pub(super) fn last_end(&self) -> End {
        let mishap = lock(&self.mishap).clone();
        mishap.map_or(End::Stopped, End::Broken)
    }

    /// Nobody is there to obey any more; if unasked, whoever waits for ends hears of it.
    pub(super) fn close(&self) {
        let late = lock(&self.commands).take();
        for command in late.into_iter().flatten() {
            self.turn_away(command);
        }
        if lock(&self.mishap).is_some() {
            self.ended.signal();
        }
    }

    /// Accepting pauses; whoever waits for arrivals hears of it.
    pub(super) fn pause(&self, why: Errno) {
        lock(&self.pauses).push(why);
        self.arrivals.signal();
    }
}

impl<T: Send + Sync + 'static> Drop for Handle<T> {
    fn drop(&mut self) {
        self.stop();
    }
}
