//! An engine without a thread, moved by hand.

use std::io::Read;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::super::handle::{Shared, Times};
use super::*;
use crate::certificates::{Paper, Wish};
use crate::places::Places;
use crate::plans::Nodes;
use crate::scratch::Scratch;
use crate::tls::{Client, Offer, Server};
use crate::tools::Tools;

/// So many that their answers take much longer than `SHARE`.
const STORM: usize = 60;

/// A hello, and a server that can answer it.
fn hello() -> (Vec<u8>, Server) {
    let client = Client::new(None, None).unwrap().connect("game.example");
    let (mut clear, mut hello) = (Scratch::default(), Scratch::default());
    let went = client.unwrap().receive(&mut [], &mut clear, &mut hello);
    assert_eq!(went, Ok(()));
    let paper = Paper::signed_by_itself(Wish::host("game.example"));
    let server = Server::new(Offer {
        pairs: vec![paper.pair()],
        versions: (true, true),
        client_ca: None,
        alpn: Vec::new(),
        secrets: Vec::new(),
    });
    (hello.to_vec(), server.unwrap())
}

/// Handshakes that are to begin, and those who will hear an answer.
fn storm() -> (Engine<usize>, Vec<UnixStream>) {
    let shared = Shared::new(Places::alone(100)).unwrap();
    let mut engine = Engine::new(Arc::new(shared), Tools::new(4096, 0)).unwrap();
    let (hello, server) = hello();
    let begin = |number| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let tls = Box::new(server.accept().unwrap());
        engine.shake(number as u64, theirs.into(), tls, hello.clone(), number);
        ours
    };
    let heard = (0..STORM).map(begin).collect();
    (engine, heard)
}

fn has_heard(mut stream: &UnixStream) -> bool {
    stream.read(&mut [0; 4096]).is_ok_and(|count| count > 0)
}

#[test]
fn a_turn_is_over_before_a_storm_is_and_the_first_come_first() {
    let (mut engine, heard) = storm();
    let (mut turns, mut before) = (0, STORM);
    while engine.shakes.wants_turn() {
        engine.shake_on();
        let left = engine.shakes.queue.len();
        assert!(left < before, "somebody in each turn");
        let done = STORM - before..STORM - left;
        assert!(heard[done].iter().all(has_heard));
        assert!(!heard[STORM - left..].iter().any(has_heard));
        (turns, before) = (turns + 1, left);
    }
    assert!(turns > 1);
    assert!(engine.shaken.is_empty());
}

#[test]
fn who_was_abandoned_in_the_queue_is_passed_over_even_if_another_has_its_place() {
    let (mut engine, heard) = storm();
    for token in 0..STORM as u64 {
        engine.abandon(token);
        engine.abandon(token); // once more, which is nothing
    }
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (hello, server) = hello();
    let tls = Box::new(server.accept().unwrap());
    engine.shake(7777, theirs.into(), tls, hello, 0);
    assert_eq!(engine.shakes.slab.len(), 1);
    drop(ours);
    while engine.shakes.wants_turn() {
        engine.shake_on();
    }
    for mut one in heard {
        assert_eq!(
            one.read(&mut [0; 10]).unwrap(),
            0,
            "closed, and nothing said"
        );
    }
    let outcome = engine.shaken.pop().unwrap().outcome.err();
    assert_eq!(outcome, Some(Unshaken::Lost(Errno::PIPE)));
    assert!(engine.shaken.is_empty() && engine.shakes.slab.is_empty());
}

/// Somebody who came here, whose hello is read, and those who will hear an answer.
fn guest() -> (Engine<usize>, UnixStream, Vec<u8>) {
    let shared = Shared::new(Places::alone(100)).unwrap();
    let mut engine = Engine::new(Arc::new(shared), Tools::new(4096, 0)).unwrap();
    let (hello, server) = hello();
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_nonblocking(true).unwrap();
    let nowhere = (Ipv4Addr::LOCALHOST, 1).into();
    let waiting = Waiting {
        token: 7,
        listener: 0,
        socket: theirs.into(),
        peer: nowhere,
        source: nowhere,
        since: Instant::now(),
        said: hello.clone(),
        alpn: None,
        hello_at: Some(0),
        split: false,
    };
    let plan = Plan {
        tls: Some(server),
        nodes: Arc::new(Nodes::new(vec![nowhere], Duration::from_secs(60))),
        times: Times {
            idle: 1 << 40,
            half_close: 1 << 40,
            session: None,
            bandwidth: None,
        },
        meter: None,
        owner: 0,
    };
    engine.welcome_sealed(waiting, None, Arc::new(plan));
    (engine, ours, hello)
}

#[test]
fn a_guest_whose_turn_has_not_come_begins_anew_elsewhere_and_any_other_goes_on() {
    for (turns, ends) in [(0, false), (0, true), (1, false), (1, true)] {
        let (mut engine, heard, hello) = guest();
        if turns > 0 {
            engine.shake_on();
        }
        assert_eq!(has_heard(&heard), turns > 0);
        if ends {
            engine.abandon_shaking();
        } else {
            let (key, _) = engine.shakes.slab.iter().next().unwrap();
            engine.give_up_shaking(key, 8); // another one's
            assert!(engine.arrivals.is_empty());
            engine.give_up_shaking(key, 7);
        }
        let arrival = engine.arrivals.pop().unwrap();
        assert!(arrival.said == hello && arrival.failure.is_none());
        match arrival.tls {
            None => assert_eq!(turns, 0),
            Some(tls) => assert!(turns > 0 && tls.is_ok_and(|tls| tls.is_handshaking())),
        }
        assert!(engine.arrivals.is_empty() && engine.shakes.slab.is_empty());
    }
}

#[test]
fn a_defect_in_one_is_its_own_end() {
    let (mut engine, _heard) = storm();
    engine.tools.records.clear(); // where there is none to read into, it panics
    while engine.shakes.wants_turn() {
        engine.shake_on();
    }
    assert_eq!(engine.shaken.len(), STORM);
    for shaken in engine.shaken.drain(..) {
        assert!(matches!(shaken.outcome, Err(Unshaken::Broken(_))));
    }
    assert!(engine.shakes.slab.is_empty());
}
