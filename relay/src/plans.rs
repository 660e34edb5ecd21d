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
use crate::keepalive::spread;
use crate::meter::Meter;
use crate::tls::Server;

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
        // Of the round, mixed (Fibonacci hashing): who comes next is asked at another time.
        let chance = (self.next.load(Ordering::Relaxed) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        sockopt::set_tcp_keepidle(&socket, spread(self.keepalive, chance >> 32))?;
        // The last packet of the handshake waits for the first bytes, which follow at once: one packet fewer, and one time
        // fewer that the game server is woken.
        sockopt::set_tcp_quickack(&socket, false)?;
        match connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
            Err(error) => Err(error),
        }
    }
}

/// What becomes of a connection.
pub struct Plan<T> {
    /// What its TLS is terminated with first; None: it is passed through.
    pub tls: Option<Server>,
    /// Where it goes.
    pub nodes: Arc<Nodes>,
    /// How long it may last.
    pub times: Times,
    /// Where its sessions are counted; None: nowhere.
    pub meter: Option<Arc<Meter>>,
    /// What whoever made the plan wants back with each session.
    pub owner: T,
}

impl<T> Plan<T> {
    /// Somebody sets out by it.
    pub fn begin(&self) {
        if let Some(meter) = &self.meter {
            meter.begin();
        }
    }
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
    /// From now on, until all are taken. What is forgotten by it: all plans, or the one that was there before.
    pub fn learn(
        &mut self,
        listener: usize,
        name: &str,
        plan: Plan<T>,
    ) -> (Option<Self>, Option<Arc<Plan<T>>>) {
        let full = (self.count >= MOST_PLANS).then(|| std::mem::take(self));
        while self.by_listener.len() <= listener {
            self.by_listener.push(HashMap::new());
        }
        let before = self.by_listener[listener].insert(name.into(), Arc::new(plan));
        self.count += usize::from(before.is_none());
        (full, before)
    }

    /// For a connection.
    #[must_use]
    pub fn find(&self, listener: usize, name: &str) -> Option<Arc<Plan<T>>> {
        self.by_listener.get(listener)?.get(name).cloned()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn plan(owner: usize) -> Plan<usize> {
        let address = (Ipv4Addr::LOCALHOST, 1).into();
        Plan {
            tls: None,
            nodes: Arc::new(Nodes::new(vec![address], Duration::from_secs(60))),
            times: Times {
                idle: 1,
                half_close: 1,
                session: None,
                bandwidth: None,
            },
            meter: None,
            owner,
        }
    }

    fn owner(plans: &Plans<usize>, listener: usize, name: &str) -> Option<usize> {
        plans.find(listener, name).map(|plan| plan.owner)
    }

    #[test]
    fn a_plan_is_found_by_its_listener_and_its_name() {
        let mut plans = Plans::default();
        assert_eq!(owner(&plans, 0, "a"), None);
        plans.learn(3, "a", plan(1));
        plans.learn(3, "b", plan(2));
        plans.learn(1, "a", plan(3));
        assert_eq!(owner(&plans, 3, "a"), Some(1));
        assert_eq!(owner(&plans, 3, "b"), Some(2));
        assert_eq!(owner(&plans, 1, "a"), Some(3));
        for (listener, name) in [(0, "a"), (2, "a"), (4, "a"), (1, "b"), (3, "c"), (3, "A")] {
            assert_eq!(owner(&plans, listener, name), None);
        }
    }

    #[test]
    fn a_plan_that_is_learned_anew_gives_the_one_before_back() {
        let mut plans = Plans::default();
        assert!(plans.learn(0, "a", plan(1)).1.is_none());
        let (all, before) = plans.learn(0, "a", plan(2));
        assert!(all.is_none());
        assert_eq!(before.map(|plan| plan.owner), Some(1));
        assert_eq!(owner(&plans, 0, "a"), Some(2));
    }

    #[test]
    fn one_more_than_the_most_forgets_all_others() {
        let mut plans = Plans::default();
        for round in 0..3 {
            for number in 0..MOST_PLANS {
                let given = plans.learn(number % 2, &number.to_string(), plan(number));
                let is_one_more = round > 0 && number == 0;
                assert_eq!(
                    given.0.map(|all| all.count),
                    is_one_more.then_some(MOST_PLANS)
                );
            }
            assert_eq!(plans.count, MOST_PLANS);
            for number in 0..MOST_PLANS {
                assert_eq!(owner(&plans, number % 2, &number.to_string()), Some(number));
            }
        }
        plans.learn(7, "one more", plan(1));
        assert_eq!(plans.count, 1);
        assert_eq!(owner(&plans, 7, "one more"), Some(1));
        assert_eq!(owner(&plans, 0, "0"), None);
    }

    #[test]
    fn picks_go_round() {
        let addresses = (1..4).map(|port| (Ipv4Addr::LOCALHOST, port).into());
        let nodes = Nodes::new(addresses.collect(), Duration::from_secs(60));
        for count in 0..10 {
            assert_eq!(nodes.pick(), count % 3);
        }
    }
}
