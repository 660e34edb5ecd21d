//! An engine that accepts by itself, game servers behind it, and those who come to it.

use std::net::{SocketAddr, SocketAddrV4, TcpListener};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use _relay::engine::{Arrival, Handle, Played, Terms, Times};
use _relay::places::Places;
use _relay::plans::{Nodes, Plan};

use super::stage::{ENDLESS, settle};
use super::{Dice, Peer, an_address, socket, until};

/// What is asked for.
pub const NAME: &str = "play.example.com";
/// What the engine reads at once.
pub const BUFFER: usize = 1 << 16;
/// A batch that nobody fills.
pub const BATCH: usize = 64;

const KEEPALIVE: Duration = Duration::from_secs(60);

/// A sound `ClientHello` that asks for a name, and is a bit longer for `padding`.
pub fn hello(name: &str, padding: usize) -> Vec<u8> {
    signed(name, padding, &[7; 32])
}

/// The same with a random of one's own.
pub fn signed(name: &str, padding: usize, random: &[u8; 32]) -> Vec<u8> {
    fn large(body: &[u8]) -> Vec<u8> {
        [&u16::try_from(body.len()).unwrap().to_be_bytes(), body].concat()
    }
    let name = [&[0], &large(name.as_bytes())[..]].concat();
    let extensions = [
        [&[0, 0], &large(&large(&name))[..]].concat(),
        [&[0, 43], &large(&[2, 3, 4])[..]].concat(),
        [&[0, 21], &large(&vec![0; padding])[..]].concat(),
    ]
    .concat();
    let body = [
        &[3, 3],
        &random[..],
        &[0],           // no session
        &[0, 2, 19, 1], // one cipher
        &[1, 0],        // no compression
        &large(&extensions),
    ]
    .concat();
    let message = [&[1, 0], &large(&body)[..]].concat();
    [&[22, 3, 1], &large(&message)[..]].concat()
}

/// A game server that plays whatever the test says.
pub struct Server {
    listening: TcpListener,
    /// Where it is.
    pub address: SocketAddr,
}

impl Server {
    /// On an address of its own.
    pub fn open() -> Self {
        Self::at((an_address(), 0).into())
    }

    /// On that address.
    pub fn at(address: SocketAddr) -> Self {
        let listening = TcpListener::bind(address).unwrap();
        listening.set_nonblocking(true).unwrap();
        let address = listening.local_addr().unwrap();
        Self { listening, address }
    }

    /// Somebody, if there is one.
    pub fn guest(&self) -> Option<Peer> {
        Some(Peer::at(self.listening.accept().ok()?.0))
    }

    /// Waits for somebody.
    pub fn wait(&self) -> Peer {
        let mut guest = None;
        until("a guest", || {
            guest = self.guest();
            guest.is_some()
        });
        guest.unwrap()
    }

    /// Waits for somebody, and until they have said that.
    pub fn welcome(&self, words: &[u8]) -> Peer {
        let mut guest = self.wait();
        guest.expect(words);
        guest
    }
}

impl Peer {
    /// Hears all of that, counted from the first byte, and no more.
    pub fn expect(&mut self, words: &[u8]) {
        until("the words", || {
            self.hear(words.len() + 1 - self.heard.len().min(words.len()));
            self.heard.len() >= words.len()
        });
        assert!(self.heard == words, "not what was said");
    }

    /// Says all of it, however long it takes; `meanwhile` makes room.
    pub fn say_all(&mut self, words: &[u8], mut meanwhile: impl FnMut()) {
        let mut left = words;
        until("room for words", || {
            left = &left[self.say(left)..];
            meanwhile();
            left.is_empty()
        });
    }

    /// Waits for the other side's end; nothing comes before it.
    pub fn farewell(&mut self) {
        let heard = self.heard.len();
        until("the end", || {
            self.hear(1);
            self.told || self.failed.is_some()
        });
        assert_eq!((self.told, self.failed), (true, None));
        assert_eq!(self.heard.len(), heard, "more than the end");
    }
}

/// An engine with one listener.
pub struct Front {
    /// The engine. Its plans are owned by numbers.
    pub handle: Handle<usize>,
    /// The listener's number.
    pub listener: usize,
    /// And address.
    pub address: SocketAddr,
}

impl Front {
    /// It has no plan yet.
    pub fn open() -> Self {
        Self::of(Handle::start(BUFFER).unwrap())
    }

    /// With an engine that was started already.
    pub fn of(handle: Handle<usize>) -> Self {
        let (listener, address) = listen(&handle, (an_address(), 0).into(), BATCH);
        Self {
            handle,
            listener,
            address,
        }
    }

    /// An engine that plays at `servers` whoever asks for `NAME`; the plan is number 0.
    pub fn with(servers: &[SocketAddr]) -> Self {
        let front = Self::open();
        front.learn(NAME, &nodes(servers), ENDLESS, 0);
        front
    }

    /// From now on whoever asks for that name is played there.
    pub fn learn(&self, name: &str, nodes: &Arc<Nodes>, times: Times, owner: usize) {
        self.handle
            .learn(self.listener, name, plan(nodes, times, owner));
    }

    /// Somebody comes, says that, and is heard by the engine.
    pub fn knock(&self, words: &[u8]) -> Peer {
        let before = self.handle.accepted();
        let mut peer = knock(self.address);
        assert_eq!(peer.say(words), words.len());
        until("being let in", || self.handle.accepted() > before);
        settle(&self.handle);
        peer
    }

    /// Waits for the one who is handed over.
    pub fn arrival(&self) -> Arrival<usize> {
        let mut all = self.arrivals(1);
        all.remove(0)
    }

    /// Waits for so many who are handed over.
    pub fn arrivals(&self, count: usize) -> Vec<Arrival<usize>> {
        let mut found = Vec::new();
        until("arrivals", || {
            found.append(&mut self.handle.arrivals());
            found.len() >= count
        });
        assert_eq!(found.len(), count, "more than have come");
        found
    }

    /// Waits for the end of the one that goes by a plan.
    pub fn played(&self) -> Played<usize> {
        let mut found = Vec::new();
        until("an end", || {
            found.append(&mut self.handle.played());
            !found.is_empty()
        });
        assert_eq!(found.len(), 1, "more ends than sessions");
        found.remove(0)
    }

    /// Neither has anybody been handed over, nor has a session ended.
    pub fn nothing_happened(&self) {
        settle(&self.handle);
        assert!(self.handle.arrivals().is_empty() && self.handle.played().is_empty());
    }

    /// It gets that late, and the engine has heard of it.
    pub fn tick(&self, now: u64) {
        self.handle.tick(now);
        settle(&self.handle);
    }
}

/// A listener's number and address.
pub fn listen(handle: &Handle<usize>, address: SocketAddr, batch: usize) -> (usize, SocketAddr) {
    let listening = TcpListener::bind(address).unwrap();
    listening.set_nonblocking(true).unwrap();
    let address = listening.local_addr().unwrap();
    (
        handle.listen(
            listening.into(),
            Terms {
                batch,
                trusted: None,
            },
        ),
        address,
    )
}

/// A round of these.
pub fn nodes(servers: &[SocketAddr]) -> Arc<Nodes> {
    Arc::new(Nodes::new(servers.to_vec(), KEEPALIVE))
}

/// A plan that leads there.
pub fn plan(nodes: &Arc<Nodes>, times: Times, owner: usize) -> Plan<usize> {
    Plan {
        tls: None,
        nodes: Arc::clone(nodes),
        times,
        meter: None,
        owner,
    }
}

/// Connects, and says nothing yet.
pub fn knock(address: SocketAddr) -> Peer {
    let socket = caller();
    rustix::net::connect(&socket, &address).unwrap();
    Peer::at(socket)
}

/// A socket with an address of its own, connected to nobody yet.
pub fn caller() -> OwnedFd {
    let socket = socket(None);
    rustix::net::bind(&socket, &SocketAddrV4::new(an_address(), 0)).unwrap();
    socket
}

/// Where nobody listens.
pub fn nowhere() -> SocketAddr {
    (an_address(), 1).into()
}

/// A server that does not answer: its queue is full, so the kernel drops whoever knocks.
pub struct Deaf {
    /// Where it is.
    pub address: SocketAddr,
    listening: OwnedFd,
    queued: Vec<OwnedFd>,
}

impl Deaf {
    /// Deaf from now on.
    pub fn open() -> Self {
        let listening = socket(None);
        rustix::net::bind(&listening, &SocketAddrV4::new(an_address(), 0)).unwrap();
        rustix::net::listen(&listening, 0).unwrap();
        let address = rustix::net::getsockname(&listening).unwrap();
        let address = SocketAddr::try_from(address).unwrap();
        let queued = (0..4).map(|_| {
            let socket = caller();
            rustix::io::ioctl_fionbio(&socket, true).unwrap();
            let _ = rustix::net::connect(&socket, &address); // on its way, or in the queue
            socket
        });
        Self {
            address,
            queued: queued.collect(),
            listening,
        }
    }

    /// Hears again: whoever knocked meanwhile comes in as soon as their kernel knocks once more.
    pub fn wake(self) -> Server {
        drop(self.queued); // all of them are still on their way but the first
        rustix::net::accept(&self.listening).unwrap();
        rustix::net::listen(&self.listening, 100).unwrap();
        let listening = TcpListener::from(self.listening);
        listening.set_nonblocking(true).unwrap();
        Server {
            listening,
            address: self.address,
        }
    }
}

/// Whether an epoll of this process has an eye on a socket.
pub fn is_watched(socket: impl AsFd) -> bool {
    let number = socket.as_fd().as_raw_fd().to_string();
    // Descriptors of other tests may be gone before they are read.
    let about = std::fs::read_dir("/proc/self/fdinfo").unwrap();
    about.flatten().any(|file| {
        let text = std::fs::read_to_string(file.path()).unwrap_or_default();
        let mut watched = text.lines().filter_map(|line| line.strip_prefix("tfd:"));
        watched.any(|line| line.split_whitespace().next() == Some(&number))
    })
}

/// Words that two workers count their sessions in.
pub struct Words(Arc<[AtomicU64; 2]>);

impl Words {
    /// Nobody is there.
    pub fn new() -> Self {
        Self(Arc::default())
    }

    /// Places for all of them, as one worker sees them.
    pub fn places(&self, own: usize, most: u64) -> Places {
        let all = Box::new([0, 1].map(|index| std::ptr::from_ref(&self.0[index])));
        // SAFETY: what an Arc holds stays where it is, and the places hold the Arc.
        unsafe { Places::new(all[own], all, most, Box::new(Arc::clone(&self.0))) }
    }

    /// What is in them.
    pub fn read(&self) -> [u64; 2] {
        [0, 1].map(|index: usize| self.0[index].load(Ordering::SeqCst))
    }

    /// Another worker says what it has.
    pub fn write(&self, index: usize, count: u64) {
        self.0[index].store(count, Ordering::SeqCst);
    }
}

/// A cut somewhere inside.
pub fn cut(dice: &mut Dice, length: usize) -> usize {
    1 + dice.size(length - 1)
}
