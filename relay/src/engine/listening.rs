//! The sockets that are accepted from.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{SocketAddrAny, SocketFlags, acceptfrom_with, sockopt};

use super::{Engine, LISTENER};
use crate::header::Network;
use crate::keepalive::spread;

/// A socket that is accepted from.
pub(super) struct Listening {
    socket: OwnedFd,
    batch: usize,
    paused: bool,
    keepalive: Option<Duration>, // what sockets inherit that are accepted; None: none
    trusted: Option<Box<[Network]>>, // who says a PROXY header first; None: nobody does
}

/// How a listener is accepted from.
pub struct Terms {
    /// Connections per turn at most.
    pub batch: usize,
    /// The networks of those who say a PROXY header first; None: nobody does.
    pub trusted: Option<Box<[Network]>>,
}

/// Who comes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Guest {
    /// For itself.
    Itself,
    /// A header says for whom.
    Announced,
    /// It would have to say so, and is not believed.
    Stranger,
}

impl<T: Send + Sync> Engine<T> {
    pub(super) fn listen(&mut self, number: usize, socket: OwnedFd, terms: Terms) {
        let data = EventData::new_u64(LISTENER | number as u64);
        // What cannot be watched is somebody's mistake; nobody comes, and whoever asks epoll hears why.
        let added = epoll::add(&self.epoll, &socket, data, EventFlags::IN);
        debug_assert!(added.is_ok(), "listening: {added:?}");
        let asks = sockopt::socket_keepalive(&socket).unwrap_or(false);
        let keepalive = asks.then(|| sockopt::tcp_keepidle(&socket).ok()).flatten();
        while self.listening.len() <= number {
            self.listening.push(None);
        }
        self.listening[number] = Some(Listening {
            socket,
            batch: terms.batch,
            paused: false,
            keepalive,
            trusted: terms.trusted,
        });
    }

    /// Accepts no more there, but `most` of those who wait already: they would be reset with the last copy of the socket.
    pub(super) fn unlisten(&mut self, number: usize, most: usize) {
        self.take_batch(number, most);
        if let Some(listening) = self.listening.get_mut(number).and_then(Option::take) {
            let _ = epoll::delete(&self.epoll, &listening.socket); // it may be paused
        }
    }

    /// Takes a batch of those who wait at a listener.
    pub(super) fn accept(&mut self, number: usize) {
        let listening = self.listening.get(number).and_then(Option::as_ref);
        if let Some(batch) = listening.map(|one| one.batch) {
            self.take_batch(number, batch);
        }
    }

    fn take_batch(&mut self, number: usize, most: usize) {
        for _ in 0..most {
            let chance = self.new_token() >> 16;
            let Some(listening) = self.listening.get_mut(number).and_then(Option::as_mut) else {
                return;
            };
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            match acceptfrom_with(&listening.socket, flags) {
                Ok((socket, peer)) => {
                    let peer = address(peer);
                    if let Some(idle) = listening.keepalive {
                        let _ = sockopt::set_tcp_keepidle(&socket, spread(idle, chance)); // else with the others
                    }
                    let guest = match &listening.trusted {
                        None => Guest::Itself,
                        Some(networks) if networks.iter().any(|one| one.contains(peer.ip())) => {
                            Guest::Announced
                        }
                        Some(_) => Guest::Stranger,
                    };
                    self.welcome(number, socket, peer, guest);
                }
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(error) => {
                    // Out of descriptors or memory: to ask again at once would be a busy loop.
                    listening.paused = true;
                    let _ = epoll::delete(&self.epoll, &listening.socket);
                    self.shared.pause(error);
                    return;
                }
            }
        }
    }

    /// Goes on where accepting has paused.
    pub(super) fn resume(&mut self) {
        for (number, listening) in self.listening.iter_mut().enumerate() {
            if let Some(listening) = listening.as_mut().filter(|one| one.paused) {
                let data = EventData::new_u64(LISTENER | number as u64);
                let added = epoll::add(&self.epoll, &listening.socket, data, EventFlags::IN);
                listening.paused = added.is_err();
            }
        }
    }
}

fn address(peer: Option<SocketAddrAny>) -> SocketAddr {
    let known = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
    known.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)))
}
