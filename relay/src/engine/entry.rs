//! What the engine knows of one session beside its bytes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Times;
use crate::meter::Meter;
use crate::pace::Pace;
use crate::plans::Plan;
use crate::session::Session;

/// Whose a session is: who handed it over, or the plan that it goes by.
pub(super) enum Owner<T> {
    Given(T),
    Plan(Box<Course<T>>),
}

/// How a session that goes by a plan came this far.
pub(super) struct Course<T> {
    pub(super) plan: Arc<Plan<T>>,
    pub(super) peer: SocketAddr,
    pub(super) alpn: Option<Box<[u8]>>,
    pub(super) since: Instant,
    pub(super) hello_took: Duration,
    pub(super) shook: Option<Duration>, // from there
    pub(super) connect_took: Option<Duration>,
    pub(super) node: usize,
    pub(super) listener: usize,
}

#[allow(clippy::struct_excessive_bools)] // in which lists it is, and how far it has come
pub(super) struct Entry<T> {
    pub(super) token: u64,
    pub(super) owner: Owner<T>,
    pub(super) session: Session,
    pub(super) times: Times,
    pub(super) meter: Option<Arc<Meter>>,
    pub(super) counted: (u64, u64), // bytes that were counted there
    pub(super) begun: u64,          // when it had its game server, in microseconds
    pub(super) answered: bool,      // its game server has said something
    pub(super) last_active: u64,
    pub(super) ends_at: u64, // that is as long as it may last; NEVER also until it is dated
    pub(super) drains_at: u64,
    pub(super) pace: Option<Box<Pace>>,
    pub(super) bucket: u64, // where it is filed
    pub(super) half_closed: bool,
    pub(super) again: bool, // it is in the list of those that have more to move
    pub(super) active: bool, // it is in the list of those that have moved bytes since the last tick
    pub(super) file: bool,  // it must be filed at the next tick
    pub(super) connecting: bool, // to its game server
}

impl<T> Entry<T> {
    /// Counts what has moved since the last time; whether the game server's first bytes are among it.
    pub(super) fn count(&mut self) -> bool {
        let (to_upstream, to_client) = self.session.counts();
        if let Some(meter) = &self.meter {
            meter.add(to_upstream - self.counted.0, to_client - self.counted.1);
            self.counted = (to_upstream, to_client);
        }
        let is_first = to_client > 0 && !self.answered;
        self.answered |= is_first;
        is_first
    }

    pub(super) fn due(&self) -> u64 {
        let idle = if self.half_closed {
            self.times.idle.min(self.times.half_close)
        } else {
            self.times.idle
        };
        self.last_active
            .saturating_add(idle)
            .min(self.ends_at)
            .min(self.drains_at)
    }
}
