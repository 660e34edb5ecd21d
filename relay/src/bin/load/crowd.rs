//! Players in one epoll. Each is at one exchange at a time: a message that is sent, and wanted back byte by byte.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::io::Errno;
use slab::Slab;

use crate::Failure;
use crate::link::{Link, Way};

const BUFFER: usize = 256 * 1024;
const EVENTS: usize = 512;

/// What a player came to.
pub enum Step {
    /// What was sent has come back; how long it took.
    Exchanged(Duration),
    /// The other side has ended, as it was asked to.
    Ended,
    /// The player is gone; why.
    Failed(String),
}

struct Exchange {
    message: Arc<[u8]>, // again and again
    bytes: u64,
    sent: u64,
    got: u64,
    began: Instant,
}

struct Player {
    link: Link,
    window: u64, // bytes on the way at most
    exchange: Option<Exchange>,
    ending: bool,
}

/// Everybody.
pub struct Crowd {
    epoll: OwnedFd,
    to: SocketAddr,
    way: Arc<Way>,
    window: u64,
    opened: usize,
    players: Slab<Player>,
    buffer: Vec<u8>,
    events: Vec<Event>,
}

impl Crowd {
    /// Nobody yet. `window`: bytes that a player has on the way at most.
    pub fn new(to: SocketAddr, way: Arc<Way>, window: u64) -> Result<Self, Failure> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            to,
            way,
            window,
            opened: 0,
            players: Slab::new(),
            buffer: vec![0; BUFFER],
            events: Vec::with_capacity(EVENTS),
        })
    }

    /// One more player, whose first message is on its way. `began`: when it was due.
    pub fn open(&mut self, began: Instant) -> Result<(), Failure> {
        let message = self.way.first_message(self.opened);
        self.opened += 1;
        let entry = self.players.vacant_entry();
        let data = EventData::new_u64(entry.key() as u64);
        let player = entry.insert(Player {
            link: Link::open(self.to, &self.way)?,
            window: self.window,
            exchange: Some(exchange(&message, message.len() as u64, began)),
            ending: false,
        });
        let wanted = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(&self.epoll, player.link.socket(), data, wanted)?)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.players.len()
    }

    /// Their keys.
    pub fn keys(&self) -> Vec<usize> {
        self.players.iter().map(|(key, _)| key).collect()
    }

    /// Begins an exchange of that many bytes, the message again and again. What comes of it at once is None: no end yet.
    pub fn exchange(
        &mut self,
        key: usize,
        message: &Arc<[u8]>,
        bytes: u64,
        began: Instant,
    ) -> Option<Step> {
        let player = &mut self.players[key];
        player.exchange = Some(exchange(message, bytes, began));
        // Nothing is there to be read yet: one call fewer per message.
        let step = outcome(player.send());
        self.settle(key, step)
    }

    /// Ends a player's side; a Step follows once the other side has ended too.
    pub fn finish(&mut self, key: usize) -> Option<Step> {
        let player = &mut self.players[key];
        player.ending = true;
        let step = player.link.finish().err().map(failed);
        self.settle(key, step)
    }

    /// What became of whom, at the latest after that time.
    pub fn turn(
        &mut self,
        timeout: Duration,
        steps: &mut Vec<(usize, Step)>,
    ) -> Result<(), Failure> {
        let timeout = Timespec::try_from(timeout)?;
        match epoll::wait(
            &self.epoll,
            spare_capacity(&mut self.events),
            Some(&timeout),
        ) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            let (flags, key) = (event.flags, usize::try_from(event.data.u64())?);
            if let Some(player) = self.players.get_mut(key) {
                let step = outcome(player.go_on(flags, &mut self.buffer));
                if let Some(step) = self.settle(key, step) {
                    steps.push((key, step));
                }
            }
        }
        self.events = events;
        Ok(())
    }

    /// Whoever has ended is forgotten.
    fn settle(&mut self, key: usize, step: Option<Step>) -> Option<Step> {
        if matches!(step, Some(Step::Ended | Step::Failed(_))) {
            self.players.remove(key);
        }
        step
    }
}

fn exchange(message: &Arc<[u8]>, bytes: u64, began: Instant) -> Exchange {
    Exchange {
        message: Arc::clone(message),
        bytes,
        sent: 0,
        got: 0,
        began,
    }
}

fn outcome(result: io::Result<Option<Step>>) -> Option<Step> {
    result.unwrap_or_else(|error| Some(failed(error)))
}

#[allow(clippy::needless_pass_by_value)] // for map
fn failed(error: io::Error) -> Step {
    Step::Failed(error.to_string())
}

/// None where a call would block.
fn unless_blocked<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) if error.kind() == ErrorKind::Interrupted => Ok(None),
        Err(error) => Err(error),
    }
}

impl Player {
    fn go_on(&mut self, flags: EventFlags, buffer: &mut [u8]) -> io::Result<Option<Step>> {
        unless_blocked(self.link.go_on())?;
        self.send()?;
        let hung_up = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        if !hung_up && !flags.contains(EventFlags::IN) {
            return Ok(None);
        }
        loop {
            let Some(count) = unless_blocked(self.link.receive(buffer))? else {
                return Ok(None);
            };
            if count == 0 {
                return if self.ending {
                    Ok(Some(Step::Ended))
                } else {
                    Err(ErrorKind::UnexpectedEof.into())
                };
            }
            if let Some(step) = self.take(&buffer[..count])? {
                return Ok(Some(step));
            }
            self.send()?;
            if !hung_up && count < buffer.len() && self.link.is_drained_by_less() {
                return Ok(None);
            }
        }
    }

    /// As much as is taken. Never a step.
    fn send(&mut self) -> io::Result<Option<Step>> {
        let Some(exchange) = &mut self.exchange else {
            return Ok(None);
        };
        loop {
            let free = self.window.saturating_sub(exchange.sent - exchange.got);
            let piece = piece(exchange, exchange.sent, free);
            if piece.is_empty() {
                break;
            }
            let Some(count) = unless_blocked(self.link.send(piece))? else {
                break;
            };
            exchange.sent += count as u64;
        }
        Ok(None)
    }

    /// Compares what came with what is due.
    fn take(&mut self, mut bytes: &[u8]) -> io::Result<Option<Step>> {
        let Some(exchange) = &mut self.exchange else {
            return Err(io::Error::other("bytes that nobody sent"));
        };
        while !bytes.is_empty() {
            let due = piece(exchange, exchange.got, bytes.len() as u64);
            if due.is_empty() || due != &bytes[..due.len()] {
                return Err(io::Error::other("other bytes than were sent"));
            }
            let count = due.len();
            exchange.got += count as u64;
            bytes = &bytes[count..];
        }
        if exchange.got < exchange.bytes {
            return Ok(None);
        }
        let took = exchange.began.elapsed();
        self.exchange = None;
        Ok(Some(Step::Exchanged(took)))
    }
}

/// The bytes of an exchange from there on, as far as they lie in one piece.
fn piece(exchange: &Exchange, from: u64, most: u64) -> &[u8] {
    let length = exchange.message.len();
    let start = usize::try_from(from % length as u64).unwrap_or(0);
    let most = usize::try_from(most.min(exchange.bytes - from)).unwrap_or(usize::MAX);
    &exchange.message[start..][..most.min(length - start)]
}
