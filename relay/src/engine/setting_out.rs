//! From somebody who was heard to a session: the way to a game server, by a plan.

use std::mem::take;
use std::sync::Arc;

use rustix::event::epoll::{self, EventFlags};
use rustix::io::Errno;
use rustix::net::{SendFlags, getpeername, send, sockopt};

use super::entry::{Course, Owner};
#[cfg(test)]
use super::orders::Trap;
use super::shaking::Sealed;
use super::waiting::{Pending, Waiting};
use super::{Engine, SESSION_EVENTS, Times, Tried, session_data};
use crate::meter::Meter;
use crate::plans::Plan;
use crate::session::{End, Session, Side};
use crate::tls::Tls;

impl<T: Send + Sync> Engine<T> {
    /// Connects to the node whose turn it is, and says there what the client has said.
    pub(super) fn set_out(
        &mut self,
        mut waiting: Waiting,
        key: Option<usize>,
        plan: Arc<Plan<T>>,
        emptied: bool,
    ) {
        let hello_took = waiting.since.elapsed();
        // From here on it is the client's connection: the header was for us.
        waiting.said.drain(..waiting.hello_at.unwrap_or(0));
        self.shared
            .seen
            .hello(&waiting.said, waiting.split, hello_took);
        plan.begin();
        waiting.peer = waiting.source;
        let node = plan.nodes.pick();
        // On loopback and in a quick network the connection stands at once; elsewhere this says AGAIN.
        let reached = plan.nodes.reach(node).and_then(|upstream| {
            match send(&upstream, &waiting.said, SendFlags::NOSIGNAL) {
                Ok(count) => Ok((upstream, Some(count))),
                Err(Errno::AGAIN | Errno::INTR) => Ok((upstream, None)),
                Err(error) => Err(error),
            }
        });
        let (upstream, sent) = match reached {
            Ok(reached) => reached,
            Err(error) => {
                if key.is_some() {
                    let _ = epoll::delete(&self.epoll, &waiting.socket);
                }
                let tried = Tried {
                    plan,
                    node,
                    outcome: Err(error),
                    hello_took,
                    shook: None,
                };
                return self.hand_over(waiting, None, Some(tried), None);
            }
        };
        let (times, meter) = (plan.times, plan.meter.clone());
        let mut course = Box::new(Course {
            plan,
            peer: waiting.peer,
            alpn: waiting.alpn.take(),
            since: waiting.since,
            hello_took,
            shook: None,
            connect_took: None,
            node,
            listener: waiting.listener,
        });
        if sent.is_some() {
            let took = waiting.since.elapsed().saturating_sub(hello_took);
            course.connect_took = Some(self.shared.seen.waits.connect.take(took));
        }
        let said = take(&mut waiting.said);
        let session = Session::begun(waiting.socket, upstream, said, sent, emptied);
        let (connecting, known) = (sent.is_none(), key.is_some());
        self.begin(
            waiting.token,
            session,
            (times, meter),
            course,
            connecting,
            known,
        );
    }

    /// The same for somebody whose TLS handshake is over.
    pub(super) fn set_out_sealed(&mut self, waiting: Waiting, sealed: Sealed<T>, tls: Box<Tls>) {
        let Sealed { plan, hello_took } = sealed;
        let shook = waiting.since.elapsed().saturating_sub(hello_took);
        let hello = &waiting.said[waiting.hello_at.unwrap_or(0)..];
        self.shared.seen.hello(hello, waiting.split, hello_took);
        self.shared
            .seen
            .handshake(tls.is_1_3(), tls.is_resumed(), shook);
        plan.begin();
        let node = plan.nodes.pick();
        let upstream = match plan.nodes.reach(node) {
            Ok(upstream) => upstream,
            Err(error) => {
                let _ = epoll::delete(&self.epoll, &waiting.socket);
                let tried = Tried {
                    plan,
                    node,
                    outcome: Err(error),
                    hello_took,
                    shook: Some(shook),
                };
                return self.hand_over(waiting.heard_out(), None, Some(tried), Some(Ok(tls)));
            }
        };
        let (times, meter) = (plan.times, plan.meter.clone());
        let course = Box::new(Course {
            plan,
            peer: waiting.source,
            alpn: waiting.alpn.clone(),
            since: waiting.since,
            hello_took,
            shook: Some(shook),
            connect_took: None,
            node,
            listener: waiting.listener,
        });
        let session = Session::begun(waiting.socket, upstream, Vec::new(), None, false)
            .with_tls(Side::Client, Some(tls));
        self.begin(waiting.token, session, (times, meter), course, true, true);
    }

    /// A session by a plan. `known`: its client is known to epoll already.
    fn begin(
        &mut self,
        token: u64,
        session: Session,
        (times, meter): (Times, Option<Arc<Meter>>),
        course: Box<Course<T>>,
        connecting: bool,
        known: bool,
    ) {
        let place = self.insert(
            token,
            session,
            times,
            meter,
            Owner::Plan(course),
            connecting,
        );
        if connecting {
            self.pending.push(Pending::Connecting(place, token));
        }
        #[cfg(test)]
        self.trip(Trap::SetOut);
        let entry = &self.entries[place];
        let client = entry.session.socket(Side::Client);
        let data = session_data(place, Side::Client);
        let watched = if known {
            epoll::modify(&self.epoll, client, data, SESSION_EVENTS)
        } else {
            epoll::add(&self.epoll, client, data, SESSION_EVENTS)
        };
        let upstream = entry.session.socket(Side::Upstream);
        let watched = watched.and_then(|()| {
            epoll::add(
                &self.epoll,
                upstream,
                session_data(place, Side::Upstream),
                SESSION_EVENTS,
            )
        });
        if let Err(error) = watched {
            self.end(place, End::Lost(Side::Client, error));
        }
    }

    /// The kernel has something to say of a connection on its way to a game server.
    pub(super) fn connected(&mut self, key: usize, flags: EventFlags) {
        let now = self.microseconds();
        let entry = &mut self.entries[key];
        let upstream = entry.session.socket(Side::Upstream);
        match sockopt::socket_error(upstream) {
            // What was said of a session that had its place before, and ended in this turn, may be taken for its own.
            Ok(Ok(())) if flags.contains(EventFlags::OUT) && getpeername(upstream).is_ok() => {
                entry.connecting = false;
                entry.begun = now;
                if let Owner::Plan(course) = &mut entry.owner {
                    let before = course.hello_took + course.shook.unwrap_or_default();
                    let took = course.since.elapsed().saturating_sub(before);
                    course.connect_took = Some(self.shared.seen.waits.connect.take(took));
                }
                self.activate(key); // its time begins
                self.move_bytes(key);
            }
            Ok(Ok(())) => {}
            Ok(Err(error)) | Err(error) => self.take_back(key, Some(error)),
        }
    }

    /// Hands over a session that has no game server yet. `failure`: why it got none; None: it is still on its way there.
    pub(super) fn take_back(&mut self, key: usize, failure: Option<Errno>) {
        let entry = *self.entries.remove(key);
        self.keys.remove(&entry.token);
        let (client, tls, upstream, said) = entry.session.into_parts();
        let Owner::Plan(course) = entry.owner else {
            unreachable!("only those who came here connect here");
        };
        for socket in [&client, &upstream] {
            let _ = epoll::delete(&self.epoll, socket);
        }
        let outcome = failure.map_or(Ok(upstream), Err);
        let waiting = Waiting {
            token: entry.token,
            listener: course.listener,
            socket: client,
            peer: course.peer,
            source: course.peer,
            since: course.since,
            said,
            alpn: None,
            hello_at: Some(0),
            split: false,
        };
        let tried = Tried {
            plan: course.plan,
            node: course.node,
            outcome,
            hello_took: course.hello_took,
            shook: course.shook,
        };
        self.hand_over(waiting, None, Some(tried), tls.map(Ok));
    }
}
