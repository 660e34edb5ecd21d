//! One side of a session: a socket, what the kernel has said of it, and what it is owed.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};

use crate::tools::Pipe;

/// Bytes for which a pipe is better than a buffer.
const BULK: usize = 16 * 1024;

/// Bytes that a side did not take yet. There is none for most of most sessions, hence the box.
pub(crate) type Debt = Option<Box<Owed>>;

pub(crate) enum Owed {
    Bytes { bytes: Vec<u8>, paid: usize },
    Pipe(Pipe),
}

impl Owed {
    pub(crate) fn bytes(bytes: Vec<u8>) -> Debt {
        (!bytes.is_empty()).then(|| Box::new(Self::Bytes { bytes, paid: 0 }))
    }

    /// Bytes of memory that it takes: a copy takes all of them until the last one is paid.
    pub(crate) fn held(&self) -> usize {
        match self {
            Self::Bytes { bytes, .. } => bytes.capacity(),
            Self::Pipe(pipe) => pipe.holds(),
        }
    }

    /// Pays what a socket takes, which is how many bytes (0: none now); and whether that was all.
    pub(crate) fn pay(&mut self, socket: &mut Socket) -> Result<(usize, bool), Errno> {
        match self {
            Self::Bytes { bytes, paid } => {
                let count = socket.send(&bytes[*paid..])?;
                *paid += count;
                Ok((count, *paid == bytes.len()))
            }
            Self::Pipe(pipe) => {
                let count = socket.pour(pipe)?;
                Ok((count, pipe.is_empty()))
            }
        }
    }
}

#[allow(clippy::struct_excessive_bools)] // six facts about one descriptor, each true or not by itself
pub(crate) struct Socket {
    pub(crate) fd: OwnedFd,
    pub(crate) debt: Debt,
    /// Reading or writing may succeed, as far as the kernel has said.
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// The kernel has said that its end, an error or an urgent byte is to come: a short read is not the last.
    pub(crate) read_on: bool,
    /// All that it will ever say has been read.
    pub(crate) ended: bool,
    /// We have said that nothing more comes.
    pub(crate) shut: bool,
    /// It had so much to say that the next read goes through a pipe.
    pub(crate) bulk: bool,
}

impl Socket {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            debt: None,
            readable: true,
            writable: true,
            read_on: false,
            ended: false,
            shut: false,
            bulk: false,
        }
    }

    /// How many bytes the kernel took; 0 when it takes none now.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        self.give(|fd| send(fd, bytes, SendFlags::NOSIGNAL))
    }

    /// How many bytes came, 0 at its end; None when there are none now.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, Errno> {
        loop {
            match recv(&self.fd, &mut *buffer, RecvFlags::empty()) {
                Ok((_, count)) => {
                    // A short read has emptied the queue; what comes later is announced anew (epoll(7), Q9).
                    self.readable = count == buffer.len() || (self.read_on && count > 0);
                    self.ended = count == 0;
                    self.bulk = count == buffer.len() && count >= BULK;
                    return Ok(Some(count));
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.readable = false;
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// How many bytes went into a pipe: none at the end, now, or before an urgent byte. Which of them it is, reading tells.
    pub(crate) fn fill(&mut self, pipe: &mut Pipe, size: usize) -> Result<usize, Errno> {
        match pipe.fill(&self.fd, size) {
            Ok(count) => {
                self.bulk = count >= BULK;
                Ok(count)
            }
            Err(Errno::AGAIN) => {
                self.bulk = !self.read_on; // the next burst is bulk too
                self.readable = self.read_on;
                Ok(0)
            }
            Err(Errno::INTR) => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// How many bytes out of a pipe the kernel took; 0 when it takes none now.
    pub(crate) fn pour(&mut self, pipe: &mut Pipe) -> Result<usize, Errno> {
        self.give(|fd| pipe.pour(fd))
    }

    fn give(
        &mut self,
        mut call: impl FnMut(&OwnedFd) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        loop {
            match call(&self.fd) {
                Ok(count) => return Ok(count),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.writable = false;
                    return Ok(0);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Says that nothing more comes. Who is gone altogether need not hear it: whoever reads from it will hear how.
    pub(crate) fn shut(&mut self) -> Result<(), Errno> {
        self.shut = true;
        match shutdown(&self.fd, Shutdown::Write) {
            Ok(()) | Err(Errno::NOTCONN) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
