//! How a session leaves, and what is told of it.

use std::sync::atomic::Ordering;

use super::arrivals::own_address;
use super::entry::Owner;
use super::{Ended, Engine, Played};
use crate::session::{End, Side};

impl<T: Send + Sync> Engine<T> {
    /// Forgets a session; its sockets are closed with it, which takes them out of epoll too.
    pub(super) fn end(&mut self, key: usize, end: End) {
        self.count(key);
        let entry = *self.entries.remove(key);
        self.keys.remove(&entry.token);
        let (to_upstream, to_client) = entry.session.counts();
        let (source, agreed) = match &entry.owner {
            Owner::Given(_) => (None, None), // it was told
            Owner::Plan(_) => (
                own_address(entry.session.socket(Side::Upstream)),
                entry.session.agreed(Side::Client),
            ),
        };
        drop(entry.session); // its sockets are closed before anybody hears of its end
        match entry.owner {
            Owner::Given(owner) => self.ended.push(Ended {
                token: entry.token,
                owner,
                end,
                to_upstream,
                to_client,
            }),
            Owner::Plan(course) => {
                self.shared.places.leave(1);
                self.played.push(Played {
                    token: entry.token,
                    plan: course.plan,
                    node: course.node,
                    peer: course.peer,
                    alpn: course.alpn,
                    source,
                    end,
                    to_upstream,
                    to_client,
                    hello_took: course.hello_took,
                    sealed: agreed.zip(course.shook),
                    connect_took: course.connect_took,
                    lasted: course.since.elapsed(),
                });
            }
        }
    }

    /// Tells what came of this turn, at once.
    pub(super) fn report(&mut self) {
        self.shared.accepted.store(self.accepted, Ordering::Relaxed);
        self.shared.ended.tell(&mut self.ended);
        self.shared.played.tell(&mut self.played);
        self.shared.shaken.tell(&mut self.shaken);
        self.shared.arrivals.tell(&mut self.arrivals);
    }
}
