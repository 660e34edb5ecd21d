//! One side of a session: a socket, its TLS, what the kernel has said of it, and what it is owed.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};

use crate::tls::Tls;
use crate::tools::Pipe;

#[cfg(test)]
mod tests;

/// Bytes for which a pipe is better than a buffer.
const BULK: usize = 16 * 1024;

/// Bytes that a side did not take yet. There is none for most of most sessions, hence the box.
pub(crate) type Debt = Option<Box<Owed>>;

pub(crate) enum Owed {
    Bytes(Bytes),
    Pipe(Pipe),
}

/// As they go out, and how many bytes they stand for where they are records.
pub(crate) struct Bytes {
    all: Vec<u8>,
    paid: usize,
    clear: usize,
    counted: usize, // of those in clear
}

impl Bytes {
    pub(crate) fn left(mut self) -> Vec<u8> {
        self.all.split_off(self.paid)
    }

    /// How many more of those in clear may count as paid.
    fn count(&mut self) -> usize {
        let due = in_proportion(self.clear, self.paid, self.all.len());
        due - std::mem::replace(&mut self.counted, due)
    }
}

/// How many of those in clear have gone with so many of all bytes.
pub(crate) fn in_proportion(clear: usize, paid: usize, all: usize) -> usize {
    if paid == all {
        return clear;
    }
    let share = clear as u128 * paid as u128 / all.max(1) as u128;
    usize::try_from(share).unwrap_or(clear)
}

impl Owed {
    /// `clear`: for how many bytes in clear they stand.
    pub(crate) fn bytes(bytes: Vec<u8>, clear: usize) -> Debt {
        let owed = Bytes {
            all: bytes,
            paid: 0,
            clear,
            counted: 0,
        };
        (!owed.all.is_empty()).then(|| Box::new(Self::Bytes(owed)))
    }

    /// Bytes of memory that it takes: a copy takes all of them until the last one is paid.
    pub(crate) fn held(&self) -> usize {
        match self {
            Self::Bytes(owed) => owed.all.capacity(),
            Self::Pipe(pipe) => pipe.holds(),
        }
    }

    /// Bytes that are still to be paid.
    pub(crate) fn left(&self) -> usize {
        match self {
            Self::Bytes(owed) => owed.all.len() - owed.paid,
            Self::Pipe(pipe) => pipe.holds(),
        }
    }

    /// Pays what a socket takes, which is how many bytes in clear (0: none now); and whether that was all.
    pub(crate) fn pay(&mut self, socket: &mut Socket) -> Result<(usize, bool), Errno> {
        match self {
            Self::Bytes(owed) => {
                owed.paid += socket.send(&owed.all[owed.paid..])?;
                Ok((owed.count(), owed.paid == owed.all.len()))
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
    pub(crate) tls: Option<Box<Tls>>,
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
            tls: None,
            debt: None,
            readable: true,
            writable: true,
            read_on: false,
            ended: false,
            shut: false,
            bulk: false,
        }
    }

    /// Owes it more: behind what it is owed, which is no pipe where there is TLS.
    pub(crate) fn owe(&mut self, bytes: &[u8], clear: usize) {
        if let Some(Owed::Bytes(owed)) = self.debt.as_deref_mut() {
            owed.all.drain(..owed.paid);
            owed.clear -= owed.counted;
            (owed.paid, owed.counted) = (0, 0);
            owed.all.extend_from_slice(bytes);
            owed.clear += clear;
        } else {
            debug_assert!(self.debt.is_none());
            self.debt = Owed::bytes(bytes.to_vec(), clear);
        }
    }

    /// Bytes that are kept for it, and of what it has said.
    pub(crate) fn held(&self) -> usize {
        let debt = self.debt.as_ref().map_or(0, |owed| owed.held());
        debt + self.tls.as_ref().map_or(0, |tls| tls.held())
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
