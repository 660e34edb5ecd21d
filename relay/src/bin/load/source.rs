//! A game server that sends as fast as it can: the same bytes again and again, from the first byte that a player sends.

use std::io::Write;
use std::os::fd::OwnedFd;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, Event, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send, sockopt};
use slab::Slab;

use crate::Failure;
use crate::echo::{data, listen_on};
use crate::work::{CHUNK, pattern};

const BUFFER: usize = 16 * 1024;
const EVENTS: usize = 512;
const TURN: usize = 4; // pieces for one player before the next has its turn

struct Guest {
    socket: OwnedFd,
    asked: bool,
    sent: usize, // of the bytes that are sent again and again
}

/// Until it is ended by a signal. Prints a line once it listens.
pub fn serve(ports: &[u16]) -> Result<(), Failure> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut listening = Vec::new();
    for (index, &port) in ports.iter().enumerate() {
        let socket = listen_on(port)?;
        epoll::add(&epoll, &socket, data(index), EventFlags::IN)?;
        listening.push(socket);
    }
    let bytes = pattern(CHUNK);
    let mut guests: Slab<Guest> = Slab::new();
    let mut events: Vec<Event> = Vec::with_capacity(EVENTS);
    writeln!(std::io::stdout(), "{{\"ports\":{ports:?}}}")?;
    loop {
        match epoll::wait(&epoll, spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events.drain(..) {
            let key = usize::try_from(event.data.u64())?;
            if let Some(socket) = listening.get(key) {
                welcome(&epoll, socket, &mut guests, listening.len())?;
                continue;
            }
            let key = key - listening.len();
            // An error of one guest is the end of that guest.
            if !go_on(&mut guests[key], &bytes).unwrap_or(false) {
                guests.remove(key);
            }
        }
    }
}

/// Level-triggered: whoever has had its turn is heard of again.
fn welcome(
    epoll: &OwnedFd,
    listening: &OwnedFd,
    guests: &mut Slab<Guest>,
    first_key: usize,
) -> Result<(), Failure> {
    loop {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = match accept_with(listening, flags) {
            Ok(socket) => socket,
            Err(Errno::AGAIN) => return Ok(()),
            Err(Errno::INTR | Errno::CONNABORTED) => continue,
            Err(error) => return Err(error.into()),
        };
        sockopt::set_socket_send_buffer_size(&socket, BUFFER)?;
        let entry = guests.vacant_entry();
        let wanted = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP;
        epoll::add(epoll, &socket, data(first_key + entry.key()), wanted)?;
        entry.insert(Guest {
            socket,
            asked: false,
            sent: 0,
        });
    }
}

/// Whether the guest stays.
fn go_on(guest: &mut Guest, bytes: &[u8]) -> Result<bool, Errno> {
    let mut buffer = [0; BUFFER];
    match recv(&guest.socket, &mut buffer, RecvFlags::empty()) {
        Ok((0, _)) => return Ok(false),
        Ok(_) => guest.asked = true,
        Err(Errno::AGAIN | Errno::INTR) => {}
        Err(error) => return Err(error),
    }
    for _ in 0..TURN {
        if !guest.asked {
            break;
        }
        match send(&guest.socket, &bytes[guest.sent..], SendFlags::NOSIGNAL) {
            Ok(count) => guest.sent = (guest.sent + count) % bytes.len(),
            Err(Errno::AGAIN | Errno::INTR) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}
