//! An engine without a thread, moved by hand: what depends on the order of events, or on what others do not know.

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use rustix::event::epoll::Event;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};

use super::super::handle::Shared;
use super::super::orders::Command;
use super::super::{LISTENER, Times, session_data};
use super::*;
use crate::places::Places;
use crate::plans::Nodes;
use crate::session::Side;
use crate::tls::{Offer, Server};
use crate::tools::Tools;

const ENDLESS: Times = Times {
    idle: 1 << 40,
    half_close: 1 << 40,
    session: None,
    bandwidth: None,
};

fn engine() -> Engine<()> {
    let shared = Shared::new(Places::alone(100)).unwrap();
    Engine::new(Arc::new(shared), Tools::new(4096, 0)).unwrap()
}

/// A listening socket, and a plan that leads to it.
fn server(backlog: i32) -> (TcpListener, Arc<Plan<()>>) {
    let listening = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    rustix::net::listen(&listening, backlog).unwrap();
    listening.set_nonblocking(true).unwrap();
    let address = listening.local_addr().unwrap();
    let plan = Plan {
        tls: None,
        nodes: Arc::new(Nodes::new(vec![address], Duration::from_secs(60))),
        times: ENDLESS,
        meter: None,
        owner: (),
    };
    (listening, Arc::new(plan))
}

/// The same with a full queue, so that it does not answer.
fn deaf() -> (TcpListener, Vec<OwnedFd>, Arc<Plan<()>>) {
    let (listening, plan) = server(0);
    let address = listening.local_addr().unwrap();
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let queued = (0..4).map(|_| {
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap();
        let _ = connect(&socket, &address); // on its way, or in the queue
        socket
    });
    (listening, queued.collect(), plan)
}

/// Somebody who has come and said hello.
fn guest(engine: &mut Engine<()>) -> (TcpStream, Waiting) {
    let door = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let player = TcpStream::connect(door.local_addr().unwrap()).unwrap();
    let (socket, peer) = door.accept().unwrap();
    socket.set_nonblocking(true).unwrap();
    assert!(engine.shared.places.enter());
    let waiting = Waiting {
        token: engine.new_token(),
        listener: 0,
        socket: socket.into(),
        peer,
        source: peer,
        since: Instant::now(),
        said: b"hello".to_vec(),
        alpn: None,
        hello_at: Some(0),
        split: false,
    };
    (player, waiting)
}

/// The same, sent there; the session's token and place.
fn visit(engine: &mut Engine<()>, plan: &Arc<Plan<()>>) -> (TcpStream, u64, usize) {
    let (player, waiting) = guest(engine);
    let token = waiting.token;
    engine.set_out(waiting, None, Arc::clone(plan), true);
    let key = engine.keys[&token];
    (player, token, key)
}

/// Asks again and again until the answer is yes.
fn until(engine: &mut Engine<()>, mut answer: impl FnMut(&mut Engine<()>) -> bool) {
    let began = Instant::now();
    while !answer(engine) {
        assert!(began.elapsed() < Duration::from_secs(20), "in vain");
        std::thread::yield_now();
    }
}

fn obey(engine: &mut Engine<()>, command: Command<()>) {
    lock(&engine.shared.commands)
        .as_mut()
        .unwrap()
        .push(command);
    engine.obey();
}

fn event(key: usize, side: Side, flags: EventFlags) -> Event {
    let data = session_data(key, side);
    Event { flags, data }
}

/// Nobody is counted, nor known by a token.
fn is_empty(engine: &Engine<()>) -> bool {
    let last = engine.shared.places.enter();
    engine.shared.places.leave(1);
    last && engine.entries.is_empty() && engine.keys.is_empty() && engine.waiting.is_empty()
}

#[test]
fn a_planned_session_is_killed_by_its_token() {
    let mut engine = engine();
    let ((_server, playing), (_deaf, _queued, connecting)) = (server(9), deaf());
    for (plan, has_server) in [(playing, true), (connecting, false)] {
        let (_player, token, key) = visit(&mut engine, &plan);
        until(&mut engine, |engine| {
            engine.handle(&event(key, Side::Upstream, EventFlags::OUT));
            engine.entries[key].connecting != has_server
        });
        obey(&mut engine, Command::Kill(token ^ 2));
        assert!(engine.played.is_empty());
        obey(&mut engine, Command::Kill(token));
        obey(&mut engine, Command::Kill(token));
        let [played] = &engine.played[..] else {
            panic!("it ends once");
        };
        assert_eq!((played.token, &played.end), (token, &End::Killed));
        assert_eq!(played.connect_took.is_some(), has_server);
        assert_eq!(played.to_upstream, if has_server { 5 } else { 0 });
        engine.played.clear();
        assert!(is_empty(&engine));
        obey(&mut engine, Command::Tick(500));
        obey(&mut engine, Command::Tick(1000));
        assert!(engine.played.is_empty() && engine.arrivals.is_empty());
    }
}

/// A session ends in the middle of a turn, and its place is given to another before the turn comes to its other socket.
#[test]
fn what_was_said_of_the_session_before_is_not_taken_for_a_connection() {
    let mut engine = engine();
    let ((_server, plan), (_deaf, _queued, deaf)) = (server(9), deaf());
    let (player, token, key) = visit(&mut engine, &plan);
    drop(player);
    obey(&mut engine, Command::Kill(token));
    let (_player, _, place) = visit(&mut engine, &deaf);
    assert_eq!(place, key, "the same place");
    for flags in [
        EventFlags::OUT,
        EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP,
        EventFlags::OUT | EventFlags::HUP | EventFlags::ERR,
        EventFlags::IN,
    ] {
        for side in [Side::Upstream, Side::Client] {
            engine.handle(&event(key, side, flags));
            assert!(engine.entries[key].connecting);
        }
    }
    engine.clear_pending();
    engine.clear_pending();
    let arrival = engine.arrivals.pop().unwrap();
    assert_eq!(arrival.said, b"hello");
    assert!(arrival.tried.unwrap().outcome.is_ok());
    engine.shared.places.leave(1); // whoever takes it does
    assert!(is_empty(&engine));
}

#[test]
fn events_for_nobody_change_nothing() {
    let mut engine = engine();
    let all = EventFlags::IN | EventFlags::OUT | EventFlags::HUP | EventFlags::ERR;
    let data = [LISTENER | 3, WAITING | 3, 6, 7, super::super::WAKE];
    for flags in [EventFlags::empty(), EventFlags::IN, all] {
        for data in data {
            let data = EventData::new_u64(data);
            engine.handle(&Event { flags, data });
        }
    }
    assert!(is_empty(&engine));
    assert!(engine.played.is_empty() && engine.arrivals.is_empty());
}

/// A place among those who wait goes from one to the next in one turn.
#[test]
fn what_was_said_of_one_who_waited_is_no_word_of_the_next() {
    let mut engine = engine();
    let (listening, _) = server(9);
    let address = listening.local_addr().unwrap();
    engine.listen(
        0,
        listening.into(),
        super::super::Terms {
            batch: 9,
            trusted: None,
        },
    );
    let mut first = TcpStream::connect(address).unwrap();
    until(&mut engine, |engine| {
        engine.accept(0);
        engine.waiting.len() == 1
    });
    first.write_all(b"GET /").unwrap();
    until(&mut engine, |engine| {
        engine.hear_more(0);
        engine.arrivals.len() == 1
    });
    let mut second = TcpStream::connect(address).unwrap();
    until(&mut engine, |engine| {
        engine.accept(0);
        engine.waiting.len() == 1
    });
    engine.hear_more(0);
    assert_eq!((engine.waiting.len(), engine.arrivals.len()), (1, 1));
    second.write_all(b"\x16").unwrap();
    until(&mut engine, |engine| {
        engine.hear_more(0);
        assert_eq!((engine.waiting.len(), engine.arrivals.len()), (1, 1));
        engine.waiting[0].said == b"\x16"
    });
    engine.clear_pending();
    engine.clear_pending();
    assert_eq!(engine.arrivals.pop().unwrap().said, b"\x16");
    assert_eq!(engine.arrivals.pop().unwrap().said, b"GET /");
}

#[test]
fn tokens_are_never_those_that_are_counted_up() {
    let mut engine = engine();
    let tokens: std::collections::HashSet<_> = (0..10_000).map(|_| engine.new_token()).collect();
    assert_eq!(tokens.len(), 10_000);
    assert!(tokens.iter().all(|token| token >> 63 == 1));
}

#[test]
fn who_waits_in_vain_for_the_first_turn_of_his_handshake_has_said_what_he_said() {
    let mut engine = engine();
    let (_server, plan) = server(9);
    let nobodys = Offer {
        pairs: Vec::new(),
        versions: (true, true),
        client_ca: None,
        alpn: Vec::new(),
        secrets: Vec::new(),
    };
    let tls = Some(Server::new(nobodys).unwrap());
    let plan = Plan {
        tls,
        ..Arc::into_inner(plan).unwrap()
    };
    let (_player, waiting) = guest(&mut engine);
    engine.welcome_sealed(waiting, None, Arc::new(plan));
    engine.clear_pending();
    engine.clear_pending();
    let arrival = engine.arrivals.pop().unwrap();
    assert_eq!(arrival.said, b"hello");
    assert!(arrival.tls.is_none(), "a handshake that has not begun");
}
