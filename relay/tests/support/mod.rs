//! What the tests of the relay stand on: dice that fall the same way every time, peers on loopback, and one session
//! between two of them.

#![allow(dead_code, reason = "every test binary uses a part of it")]

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrAny, SocketFlags, SocketType, sockopt};

pub mod certificates;
pub mod front;
pub mod fuzzed;
pub mod party;
pub mod sealed;
pub mod stage;
pub mod table;

/// How long a test waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A pseudo-random generator (splitmix64).
pub struct Dice(u64);

impl Dice {
    /// The same seed, the same throws.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.throw() % end
    }

    /// A size below `end`.
    pub fn size(&mut self, end: usize) -> usize {
        usize::try_from(self.below(end as u64)).unwrap()
    }

    /// One in `count`.
    pub fn hit(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    /// One of them.
    pub fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.size(choices.len())]
    }

    /// As many bytes, of any value.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let words = std::iter::repeat_with(|| self.throw().to_ne_bytes());
        words.flatten().take(count).collect()
    }
}

/// Asks again and again until the answer is yes.
pub fn until(what: &str, mut answer: impl FnMut() -> bool) {
    let began = Instant::now();
    while !answer() {
        let waited = began.elapsed();
        assert!(waited < PATIENCE, "waited in vain: {what}");
        if waited > Duration::from_millis(5) {
            sleep(Duration::from_micros(100));
        }
    }
}

/// One end of a TCP connection, non-blocking, and all that was said and heard there.
pub struct Peer {
    stream: TcpStream,
    /// Bytes that the kernel took from us.
    pub said: Vec<u8>,
    /// Bytes that came.
    pub heard: Vec<u8>,
    /// The other side's end came.
    pub told: bool,
    /// The connection failed, when it was listened to or spoken to.
    pub failed: Option<ErrorKind>,
}

impl Peer {
    /// Somebody who has said and heard nothing yet.
    pub fn at(socket: impl Into<OwnedFd>) -> Self {
        let socket = socket.into();
        rustix::io::ioctl_fionbio(&socket, true).unwrap();
        sockopt::set_tcp_nodelay(&socket, true).unwrap();
        Self {
            stream: TcpStream::from(socket),
            said: Vec::new(),
            heard: Vec::new(),
            told: false,
            failed: None,
        }
    }

    /// Its own address.
    pub fn address(&self) -> SocketAddr {
        self.stream.local_addr().unwrap()
    }

    /// Says what the kernel takes now; how much that is.
    pub fn say(&mut self, bytes: &[u8]) -> usize {
        match self.stream.write(bytes) {
            Ok(count) => {
                self.said.extend_from_slice(&bytes[..count]);
                count
            }
            Err(error) => {
                self.note(&error);
                0
            }
        }
    }

    /// Takes up to `size` bytes of what has come.
    pub fn hear(&mut self, size: usize) {
        let mut buffer = vec![0; size];
        match self.stream.read(&mut buffer) {
            Ok(count) => {
                self.told |= count == 0 && size > 0;
                self.heard.extend_from_slice(&buffer[..count]);
            }
            Err(error) => self.note(&error),
        }
    }

    /// Whether the next byte, the end or an error is there.
    pub fn has_news(&self) -> bool {
        !matches!(self.stream.peek(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
    }

    /// Says one byte that is urgent.
    pub fn shout(&mut self, byte: u8) {
        let flags = rustix::net::SendFlags::OOB;
        assert_eq!(
            rustix::net::send(&self.stream, &[byte], flags),
            Ok(1),
            "the urgent byte"
        );
    }

    /// Says nothing more; goes on hearing. Who has been reset may say so too.
    pub fn end(&self) {
        if let Err(error) = self.stream.shutdown(Shutdown::Write) {
            assert_eq!(error.kind(), ErrorKind::NotConnected);
        }
    }

    /// Leaves with a reset.
    pub fn reset(self) {
        sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO)).unwrap();
    }

    fn note(&mut self, error: &io::Error) {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::Interrupted => {}
            failed => self.failed = Some(failed),
        }
    }
}

/// A peer, and the socket that is the relay's; `kernel_buffer` bounds what lies between them.
pub fn pair(kernel_buffer: Option<usize>) -> (Peer, OwnedFd) {
    let ours = socket(kernel_buffer);
    rustix::net::bind(&ours, &SocketAddrV4::new(an_address(), 0)).unwrap();
    let mut doors = DOORS.lock().unwrap_or_else(PoisonError::into_inner);
    let door = doors
        .entry(kernel_buffer)
        .or_insert_with(|| door(kernel_buffer));
    let address: SocketAddrAny = rustix::net::getsockname(&*door).unwrap();
    rustix::net::connect(&ours, &address).unwrap();
    let theirs = rustix::net::accept_with(&*door, SocketFlags::CLOEXEC).unwrap();
    rustix::io::ioctl_fionbio(&theirs, true).unwrap();
    sockopt::set_tcp_nodelay(&theirs, true).unwrap();
    (Peer::at(ours), theirs)
}

/// Opens what `pair` opens once and keeps.
pub fn open_doors(kernel_buffers: &[Option<usize>]) {
    for &kernel_buffer in kernel_buffers {
        pair(kernel_buffer);
    }
}

/// The listening socket for each size of the kernel's buffers.
static DOORS: Mutex<BTreeMap<Option<usize>, OwnedFd>> = Mutex::new(BTreeMap::new());

fn door(kernel_buffer: Option<usize>) -> OwnedFd {
    let listening = socket(kernel_buffer);
    let anywhere = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    rustix::net::bind(&listening, &anywhere).unwrap();
    rustix::net::listen(&listening, 1).unwrap();
    listening
}

/// One of the host's millions of loopback addresses, so that connections that are over do not use up the ports.
pub fn an_address() -> Ipv4Addr {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed) & 0x003f_ffff;
    Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 64, 0, 0)) | number)
}

pub fn socket(kernel_buffer: Option<usize>) -> OwnedFd {
    let (family, kind) = (AddressFamily::INET, SocketType::STREAM);
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None).unwrap();
    if let Some(size) = kernel_buffer {
        sockopt::set_socket_send_buffer_size(socket.as_fd(), size).unwrap();
        sockopt::set_socket_recv_buffer_size(socket.as_fd(), size).unwrap();
    }
    socket
}
