//! What the sessions of a thread move bytes with, one after another.
//!
//! Small pieces are copied through one buffer, which is no session's. Bulk goes through pipes, in which the kernel hands pages on
//! without copying them: a pipe is a session's only while the other side has not taken all that is in it, and there are only
//! so many.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use crate::scratch::Scratch;
use crate::tls::REST;

/// Bytes that one pipe holds at most.
pub const PIPE: usize = 1 << 20;

const FLAGS: SpliceFlags = SpliceFlags::NONBLOCK.union(SpliceFlags::MOVE);

/// A buffer, those for TLS, and a pool of pipes.
pub struct Tools {
    /// What is read into, and sent from at once.
    pub buffer: Vec<u8>,
    /// Records that came: what is kept of one that is not whole, and what is read behind it.
    pub records: Vec<u8>,
    /// What was in them, in clear.
    pub clear: Scratch,
    /// Records that go out.
    pub sealed: Scratch,
    idle: Vec<Pipe>, // empty ones
    lease: Arc<()>,
    most: usize,
}

impl Tools {
    /// A buffer of that many bytes, and at most so many pipes, which are opened when they are needed first.
    #[must_use]
    pub fn new(buffer_size: usize, pipes: usize) -> Self {
        Self {
            buffer: vec![0; buffer_size],
            records: vec![0; REST + buffer_size],
            clear: Scratch::default(),
            sealed: Scratch::default(),
            idle: Vec::new(),
            lease: Arc::new(()),
            most: pipes,
        }
    }

    /// An empty pipe; None where all are in use, or no descriptor is left: then bulk is copied.
    pub fn take_pipe(&mut self) -> Option<Pipe> {
        let there = Arc::strong_count(&self.lease) - 1;
        self.idle.pop().or_else(|| {
            let wanted = there < self.most;
            wanted.then(|| Pipe::open(&self.lease).ok()).flatten()
        })
    }

    /// Takes a pipe back. One that is not empty is closed: nobody else's bytes may come out of it.
    pub fn give_back(&mut self, pipe: Pipe) {
        if pipe.is_empty() {
            self.idle.push(pipe);
        }
    }
}

/// A pipe and how many bytes are in it.
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    holds: usize,
    _lease: Arc<()>,
}

impl Pipe {
    fn open(lease: &Arc<()>) -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let _ = fcntl_setpipe_size(&write, PIPE); // a smaller one does too
        Ok(Self {
            read,
            write,
            holds: 0,
            _lease: Arc::clone(lease),
        })
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.holds == 0
    }

    /// Bytes that are in it.
    #[must_use]
    pub fn holds(&self) -> usize {
        self.holds
    }

    /// Takes up to `size` bytes of what a socket has; how many, 0 at its end.
    ///
    /// # Errors
    ///
    /// As the kernel says of the socket; AGAIN when there is nothing now.
    pub fn fill(&mut self, from: impl AsFd, size: usize) -> Result<usize, Errno> {
        let count = splice(from, None, &self.write, None, size, FLAGS)?;
        self.holds += count;
        Ok(count)
    }

    /// Gives what is in it to a socket; how many bytes that took.
    ///
    /// # Errors
    ///
    /// As the kernel says of the socket; AGAIN when it takes nothing now.
    pub fn pour(&mut self, to: impl AsFd) -> Result<usize, Errno> {
        let count = splice(&self.read, None, to, None, self.holds, FLAGS)?;
        self.holds -= count;
        Ok(count)
    }
}
