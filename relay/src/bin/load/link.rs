//! One player's connection, non-blocking: in clear, or TLS.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, connect, recv, send,
    shutdown, socket_with, sockopt,
};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use crate::Failure;
use crate::tls;

const RECORD_HEADER: usize = 5; // bytes
const FIRST_MESSAGE: &[u8] = b"the first message of a session";

/// How a session begins.
pub enum Way {
    /// With one of these hellos; a proxy passes all of it on.
    Passing(Vec<Arc<[u8]>>),
    /// With a handshake.
    Terminated(Arc<ClientConfig>, ServerName<'static>),
}

impl Way {
    /// With the hellos that stand one after another, each in one TLS record.
    pub fn passing(mut bytes: &[u8]) -> Result<Self, Failure> {
        let mut hellos = Vec::new();
        while !bytes.is_empty() {
            let [_, _, _, high, low, ..] = *bytes else {
                return Err("the hello's record is cut off".into());
            };
            let length = RECORD_HEADER + usize::from(u16::from_be_bytes([high, low]));
            let (hello, rest) = bytes
                .split_at_checked(length)
                .ok_or("the hello's record is cut off")?;
            hellos.push(Arc::from(hello));
            bytes = rest;
        }
        if hellos.is_empty() {
            return Err("no hello".into());
        }
        Ok(Self::Passing(hellos))
    }

    /// With a handshake that asks for this name; `resuming`: from the second one on, as one who comes back.
    pub fn terminated(name: &str, resuming: bool) -> Result<Self, Failure> {
        let name = ServerName::try_from(name.to_owned())?;
        Ok(Self::Terminated(tls::config(resuming)?, name))
    }

    /// What the session of that number sends first and wants back.
    pub fn first_message(&self, number: usize) -> Arc<[u8]> {
        match self {
            Self::Passing(hellos) => Arc::clone(&hellos[number % hellos.len()]),
            Self::Terminated(..) => Arc::from(FIRST_MESSAGE),
        }
    }
}

/// A connection. Its calls answer with `WouldBlock` where they would.
pub struct Link {
    socket: Socket,
    tls: Option<Box<ClientConnection>>,
}

impl Link {
    /// Begins to connect.
    pub fn open(to: SocketAddr, way: &Way) -> Result<Self, Failure> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let family = if to.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        let socket = socket_with(family, SocketType::STREAM, flags, None)?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        match connect(&socket, &to) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let tls = match way {
            Way::Passing(_) => None,
            Way::Terminated(config, name) => Some(Box::new(ClientConnection::new(
                Arc::clone(config),
                name.clone(),
            )?)),
        };
        Ok(Self {
            socket: Socket(socket),
            tls,
        })
    }

    /// For epoll.
    pub fn socket(&self) -> &OwnedFd {
        &self.socket.0
    }

    /// How many bytes were taken.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            return self.socket.write(bytes);
        };
        flush(tls, &mut self.socket)?;
        let taken = tls.writer().write(bytes)?;
        flush_some(tls, &mut self.socket)?;
        if taken == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(taken)
    }

    /// Sends on what an earlier `send` took.
    pub fn go_on(&mut self) -> io::Result<()> {
        match &mut self.tls {
            None => Ok(()),
            Some(tls) => flush(tls, &mut self.socket),
        }
    }

    /// How many bytes came; 0: no more will.
    pub fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            return self.socket.read(buffer);
        };
        loop {
            match tls.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                other => return other,
            }
            if tls.read_tls(&mut self.socket)? == 0 {
                return Ok(0);
            }
            tls.process_new_packets().map_err(io::Error::other)?;
            flush_some(tls, &mut self.socket)?;
        }
    }

    /// Whether a `receive` that filled less than its buffer took all there was.
    pub fn is_drained_by_less(&self) -> bool {
        self.tls.is_none()
    }

    /// Sends the end.
    pub fn finish(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            flush(tls, &mut self.socket)?;
        }
        Ok(shutdown(&self.socket.0, Shutdown::Write)?)
    }
}

fn flush(tls: &mut ClientConnection, socket: &mut Socket) -> io::Result<()> {
    while tls.wants_write() {
        tls.write_tls(socket)?;
    }
    Ok(())
}

/// What the kernel takes now; the rest goes with the next event.
fn flush_some(tls: &mut ClientConnection, socket: &mut Socket) -> io::Result<()> {
    match flush(tls, socket) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
        other => other,
    }
}

struct Socket(OwnedFd);

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (count, _) = recv(&self.0, buffer, RecvFlags::empty())?;
        Ok(count)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(send(&self.0, bytes, SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
