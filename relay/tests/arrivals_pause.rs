//! A process without a descriptor left. It is the only test of its process.

use std::fs::File;
use std::io::ErrorKind;

use _relay::engine::Handle;
use _relay::tools::Tools;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

mod support;

use support::front::{BUFFER, Front, NAME, Server, Words, caller, hello, nodes};
use support::stage::{ENDLESS, settle};
use support::{Peer, until};

const FILES: u64 = 200;

/// Whether somebody has news for whoever waits for arrivals.
fn knocks(front: &Front) -> bool {
    let mut knocks = [PollFd::from_borrowed_fd(
        front.handle.knocks(),
        PollFlags::IN,
    )];
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut knocks, Some(&at_once)).unwrap() == 1
}

/// Waits for a pause, of which is told once.
fn paused(front: &Front) {
    until("a pause", || knocks(front));
    assert!(front.handle.arrivals().is_empty());
    assert_eq!(front.handle.pauses(), [Errno::MFILE]);
    for _ in 0..20 {
        settle(&front.handle);
        assert!(!knocks(front), "nobody asks again before the tick");
    }
    assert!(front.handle.pauses().is_empty());
}

#[test]
fn accepting_pauses_without_descriptors_and_goes_on_at_a_tick() {
    let (server, words) = (Server::open(), Words::new());
    let front = Front::of(Handle::start_with(Tools::new(BUFFER, 0), words.places(0, 99)).unwrap());
    front.learn(NAME, &nodes(&[server.address]), ENDLESS, 0);
    let said = hello(NAME, 0);
    let callers: Vec<_> = (0..5).map(|_| caller()).collect();
    settle(&front.handle);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(FILES),
            ..getrlimit(Resource::Nofile)
        },
    )
    .unwrap();
    let mut hoard: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert!(hoard.len() > 100);
    let mut players: Vec<_> = callers
        .into_iter()
        .map(|socket| {
            rustix::net::connect(&socket, &front.address).unwrap();
            let mut player = Peer::at(socket);
            assert_eq!(player.say(&said), said.len());
            player
        })
        .collect();
    paused(&front);
    front.tick(500); // there are none yet
    paused(&front);
    assert_eq!((front.handle.accepted(), words.read()), (0, [0, 0]));

    // One is enough to come in, and not to go on to the game server.
    hoard.pop();
    settle(&front.handle);
    assert!(front.handle.pauses().is_empty());
    front.handle.tick(1000);
    let arrival = front.arrival();
    assert!(arrival.said == said);
    let outcome = arrival.tried.unwrap().outcome;
    assert_eq!(outcome.unwrap_err(), Errno::MFILE);
    until("a pause", || front.handle.pauses() == [Errno::MFILE]);
    let first = players.iter().position(|one| one.address() == arrival.peer);
    let mut first = players.remove(first.unwrap());
    let mut ours = Peer::at(arrival.socket);
    first.say(b"!");
    ours.expect(b"!");
    assert_eq!((front.handle.accepted(), words.read()), (1, [0, 0]));

    hoard.clear();
    settle(&front.handle);
    assert_eq!(front.handle.accepted(), 1, "not before the tick");
    front.handle.tick(1500);
    for _ in &players {
        server.welcome(&said);
    }
    settle(&front.handle);
    assert_eq!(front.handle.accepted(), 5);
    drop(players);
    let mut ends = 0;
    until("the ends", || {
        ends += front.handle.played().len();
        ends == 4
    });
    front.nothing_happened();
    assert_eq!(words.read(), [0, 0]);
    front.knock(&said); // as ever
    server.welcome(&said);
    front.played();
    assert!(front.handle.pauses().is_empty());

    // Who is left without one when the listener goes is not waited for.
    let last = caller();
    hoard.extend(std::iter::from_fn(|| File::open("/dev/null").ok()));
    rustix::net::connect(&last, &front.address).unwrap();
    until("a pause", || front.handle.pauses() == [Errno::MFILE]);
    front.handle.unlisten_after(front.listener, 9);
    assert_eq!(front.handle.pauses(), [Errno::MFILE]);
    let mut last = Peer::at(last);
    until("the reset", || {
        last.hear(1);
        last.failed == Some(ErrorKind::ConnectionReset)
    });
    front.tick(2000); // it is gone
    assert!(front.handle.pauses().is_empty());
    assert_eq!((front.handle.accepted(), words.read()), (6, [0, 0]));
}
