//! One session without an engine: moved turn by turn, woken as the engine is (epoll, edge-triggered).

use std::os::fd::OwnedFd;

use _relay::session::{End, Pumped, Session, Side};
use _relay::tls::Tls;
use _relay::tools::Tools;
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, Event, EventData, EventFlags};

use super::{Peer, pair};

/// Both sides, the client's pumped first, as the engine does.
pub const SIDES: [Side; 2] = [Side::Client, Side::Upstream];

/// A session and the two who play.
pub struct Table {
    /// What is between them.
    pub session: Session,
    /// The client's peer and the upstream's.
    pub peers: [Option<Peer>; 2],
    /// What both directions read into.
    pub tools: Tools,
    /// What one direction may move in one turn.
    pub share: usize,
    epoll: OwnedFd,
}

impl Table {
    /// Nobody has said anything yet but `first`.
    pub fn lay(kernel_buffer: Option<usize>, buffer_size: usize, first: &[u8]) -> Self {
        let (player, client) = pair(kernel_buffer);
        let (server, upstream) = pair(kernel_buffer);
        let session = Session::new(client, upstream, first.to_vec());
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        for side in SIDES {
            let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
            let data = EventData::new_u64(side as u64);
            epoll::add(&epoll, session.socket(side), data, flags).unwrap();
        }
        Self {
            session,
            peers: [Some(player), Some(server)],
            tools: Tools::new(buffer_size, 0),
            share: usize::MAX,
            epoll,
        }
    }

    /// Puts TLS on a side, whose handshake is over.
    pub fn seal(&mut self, side: Side, tls: Box<Tls>) {
        let session = self.replace_session();
        self.session = session.with_tls(side, Some(tls));
    }

    /// Takes the session out, and puts nobody's in its place.
    fn replace_session(&mut self) -> Session {
        let (_, client) = pair(None);
        let (_, upstream) = pair(None);
        let nobodys = Session::new(client, upstream, Vec::new());
        std::mem::replace(&mut self.session, nobodys)
    }

    /// Who plays on a side, unless it has left.
    pub fn peer(&mut self, side: Side) -> &mut Peer {
        self.peers[side as usize].as_mut().unwrap()
    }

    /// A side leaves with a reset.
    pub fn reset(&mut self, side: Side) {
        self.peers[side as usize].take().unwrap().reset();
    }

    /// A side closes: a reset only if it has not heard everything.
    pub fn close(&mut self, side: Side) {
        drop(self.peers[side as usize].take().unwrap());
    }

    /// Tells the session what the kernel says, without moving anything; the flags per side.
    pub fn listen(&mut self) -> [EventFlags; 2] {
        let mut events = Vec::<Event>::with_capacity(4);
        epoll::wait(
            &self.epoll,
            spare_capacity(&mut events),
            Some(&Timespec::default()),
        )
        .unwrap();
        let mut told = [EventFlags::empty(); 2];
        for event in &events {
            let (flags, data) = (event.flags, event.data.u64());
            let side = SIDES[usize::try_from(data).unwrap()];
            let (readable, writable) = (EventFlags::IN, EventFlags::OUT);
            let hung_up = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
            self.session.announce(
                side,
                flags.contains(readable),
                flags.contains(writable),
                flags.intersects(hung_up),
            );
            told[side as usize] = flags;
        }
        told
    }

    /// Moves what one side has said.
    pub fn pump(&mut self, from: Side) -> Result<Pumped, End> {
        self.session
            .pump(from, &mut self.tools, self.share, usize::MAX)
    }

    /// Closes both sockets, as the engine does with a session that is over; its counts.
    pub fn wind_up(&mut self) -> (u64, u64) {
        self.replace_session().counts()
    }

    /// Listens and moves both ways; whether the session is over.
    pub fn turn(&mut self) -> Result<bool, End> {
        self.listen();
        for side in SIDES {
            self.pump(side)?;
        }
        Ok(self.session.is_over())
    }

    /// Turns until a side has heard that many bytes.
    pub fn bring(&mut self, side: Side, count: usize) {
        super::until("bytes", || {
            self.turn().unwrap();
            let peer = self.peer(side);
            peer.hear(count - peer.heard.len());
            peer.heard.len() == count
        });
    }

    /// Turns until the session fails.
    pub fn failure(&mut self) -> End {
        let mut end = None;
        super::until("failure", || {
            end = self.turn().err();
            end.is_some()
        });
        end.unwrap()
    }

    /// A side says as much of endless zeros as fits between it and the other, who hears nothing.
    pub fn stuff(&mut self, from: Side) {
        let zeros = vec![0; 1 << 16];
        let mut quiet = 0;
        while quiet < 20 {
            let before = self.session.counts();
            let took = self.peer(from).say(&zeros);
            self.turn().unwrap();
            if took == 0 && self.session.counts() == before {
                quiet += 1;
                std::thread::sleep(std::time::Duration::from_micros(500));
            } else {
                quiet = 0;
            }
        }
    }
}
