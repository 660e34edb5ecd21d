//! What Python has decided for everybody who asks a listener for a name, until the configuration changes.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};
use std::os::fd::OwnedFd;

use crate::engine::Times;

/// Plans that are kept at most. Wildcards have names without end, so one more makes room by forgetting all.
pub const MOST_PLANS: usize = 1 << 16;

/// The game servers of one upstream, in the order in which they are picked. All plans that lead there share it.
pub struct Nodes {
    addresses: Box<[SocketAddr]>,
    keepalive: Duration,
    next: AtomicUsize,
}

impl Nodes {
    /// A round of picks: who weighs more stands in it more often. `keepalive`: until the kernel asks whether they live.
    ///
    /// # Panics
    ///
    /// When there are none.
    #[must_use]
    pub fn new(addresses: Vec<SocketAddr>, keepalive: Duration) -> Self {
        assert!(!addresses.is_empty(), "no nodes");
        Self {
            addresses: addresses.into(),
            keepalive,
            next: AtomicUsize::new(0),
        }
    }

    /// Whose turn it is: its place in the round.
    pub fn pick(&self) -> usize {
        self.next.fetch_add(1, Ordering::Relaxed) % self.addresses.len()
    }

    /// A socket on its way to a node.
    ///
    /// # Errors
    ///
    /// As the kernel says at once; what it says later is the socket's error.
    pub fn reach(&self, node: usize) -> Result<OwnedFd, Errno> {
        let address = self.addresses[node];
        let family = if address.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(family, SocketType::STREAM, flags, None)?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        sockopt::set_socket_keepalive(&socket, true)?;
        sockopt::set_tcp_keepidle(&socket, self.keepalive)?;
        match connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
            Err(error) => Err(error),
        }
    }
}

/// What becomes of a connection.
pub struct Plan<T> {
    /// Where it goes.
    pub nodes: Arc<Nodes>,
    /// How long it may last.
    pub times: Times,
    /// What whoever made the plan wants back with each session.
    pub owner: T,
}

/// All plans, by listener and name.
pub struct Plans<T> {
    by_listener: Vec<HashMap<Box<str>, Arc<Plan<T>>>>,
    count: usize,
}

impl<T> Default for Plans<T> {
    fn default() -> Self {
        Self {
            by_listener: Vec::new(),
            count: 0,
        }
    }
}

impl<T> Plans<T> {
    /// From now on, until all are taken.
    pub fn learn(&mut self, listener: usize, name: &str, plan: Plan<T>) -> Option<Self> {
        let full = (self.count >= MOST_PLANS).then(|| std::mem::take(self));
        while self.by_listener.len() <= listener {
            self.by_listener.push(HashMap::new());
        }
        let before = self.by_listener[listener].insert(name.into(), Arc::new(plan));
        self.count += usize::from(before.is_none());
        full
    }

    /// For a connection.
    #[must_use]
    pub fn find(&self, listener: usize, name: &str) -> Option<Arc<Plan<T>>> {
        self.by_listener.get(listener)?.get(name).cloned()
    }
}
