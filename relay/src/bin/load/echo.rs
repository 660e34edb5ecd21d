//! The game server: what comes is sent back, on any number of ports and connections, one thread.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, accept_with, bind, listen, recv,
    send, socket_with, sockopt,
};
use slab::Slab;

use crate::Failure;

const BACKLOG: i32 = 4096;
const BUFFER: usize = 256 * 1024;
const EVENTS: usize = 512;

struct Guest {
    socket: OwnedFd,
    owed: Vec<u8>, // what the kernel did not take
    ended: bool,   // it sends no more
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
    let mut guests: Slab<Guest> = Slab::new();
    let mut buffer = vec![0; BUFFER];
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
            if !echo(&mut guests[key], &mut buffer).unwrap_or(false) {
                guests.remove(key);
            }
        }
    }
}

/// For epoll.
pub fn data(key: usize) -> EventData {
    EventData::new_u64(key as u64)
}

/// A socket that listens on this machine.
pub fn listen_on(port: u16) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

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
        sockopt::set_tcp_nodelay(&socket, true)?;
        let entry = guests.vacant_entry();
        let wanted = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(epoll, &socket, data(first_key + entry.key()), wanted)?;
        entry.insert(Guest {
            socket,
            owed: Vec::new(),
            ended: false,
        });
    }
}

/// Whether the guest stays.
fn echo(guest: &mut Guest, buffer: &mut [u8]) -> Result<bool, Errno> {
    loop {
        if !guest.owed.is_empty() {
            let sent = put(guest, None)?;
            guest.owed.drain(..sent);
            if !guest.owed.is_empty() {
                return Ok(true);
            }
        }
        if guest.ended {
            return Ok(false);
        }
        let count = match recv(&guest.socket, &mut *buffer, RecvFlags::empty()) {
            Ok((0, _)) => {
                guest.ended = true;
                continue;
            }
            Ok((count, _)) => count,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(true),
            Err(error) => return Err(error),
        };
        let sent = put(guest, Some(&buffer[..count]))?;
        guest.owed.extend_from_slice(&buffer[sent..count]);
    }
}

/// How many bytes of these, or of what is owed, the kernel took.
fn put(guest: &Guest, bytes: Option<&[u8]>) -> Result<usize, Errno> {
    let bytes = bytes.unwrap_or(&guest.owed);
    match send(&guest.socket, bytes, SendFlags::NOSIGNAL) {
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        other => other,
    }
}
