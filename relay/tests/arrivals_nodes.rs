//! Game servers that take turns, refuse, or do not answer.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use _relay::engine::{Arrival, Handle, Times};
use _relay::session::{End, Side};
use _relay::tools::Tools;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

mod support;

use support::front::{BUFFER, Deaf, Front, NAME, Server, Words, hello, is_watched, nodes, nowhere};
use support::stage::{ENDLESS, pass, settle};
use support::{Peer, until};

/// One who is handed over after that node was tried: its socket, and the server's or why there is none.
fn take(arrival: Arrival<usize>, node: usize, said: &[u8]) -> (Peer, Result<OwnedFd, Errno>) {
    assert!(arrival.said == said, "not what was said");
    assert_eq!(arrival.failure, None);
    assert!(!is_watched(&arrival.socket));
    let tried = arrival.tried.expect("a node was tried");
    assert_eq!(tried.node, node);
    assert!(tried.hello_took <= arrival.waited);
    if let Ok(socket) = &tried.outcome {
        assert!(!is_watched(socket));
    }
    (Peer::at(arrival.socket), tried.outcome)
}

/// One to each server in turn, and the next ones again.
fn rounds(front: &Front, name: &str, servers: &[&Server]) {
    let words = hello(name, 0);
    for (node, server) in servers.iter().enumerate() {
        let player = front.knock(&words);
        server.welcome(&words);
        drop(player);
        assert_eq!(front.played().node, node);
    }
}

#[test]
fn nodes_are_picked_in_their_order() {
    let servers = [Server::open(), Server::open(), Server::open()];
    let [one, two, three] = &servers;
    let front = Front::with(&[one, two, one, three].map(|server| server.address));
    for _ in 0..5 {
        rounds(&front, NAME, &[one, two, one, three]);
    }
    assert!(servers.iter().all(|server| server.guest().is_none()));
}

#[test]
fn plans_that_share_their_nodes_share_the_round() {
    let [one, two] = [Server::open(), Server::open()];
    let front = Front::open();
    let shared = nodes(&[one.address, two.address]);
    let words = ["a.example.com", "b.example.com"].map(|name| hello(name, 0));
    front.learn("a.example.com", &shared, ENDLESS, 0);
    front.learn("b.example.com", &shared, ENDLESS, 1);
    for (owner, node) in [(0, 0), (0, 1), (1, 0), (0, 1), (1, 0), (1, 1), (0, 0)] {
        let player = front.knock(&words[owner]);
        [&one, &two][node].welcome(&words[owner]);
        drop(player);
        let end = front.played();
        assert_eq!((end.plan.owner, end.node), (owner, node));
    }
    front.handle.forget();
    assert_eq!(
        Arc::strong_count(&shared),
        1,
        "nobody holds what was forgotten"
    );
    assert_eq!(shared.pick(), 1, "the round goes on");
}

#[test]
fn who_is_refused_by_a_node_is_handed_over_with_all_that_was_said() {
    let server = Server::open();
    let front = Front::with(&[server.address, nowhere(), nowhere()]);
    let words = [hello(NAME, 50), b"and more".to_vec()].concat();
    for _ in 0..3 {
        for at in [20, words.len()] {
            front.knock(&words);
            server.welcome(&words);
            front.played();
            for node in [1, 2] {
                let mut player = front.knock(&words[..at]);
                player.say(&words[at..]);
                let (mut ours, outcome) = take(front.arrival(), node, &words);
                assert_eq!(outcome.unwrap_err(), Errno::CONNREFUSED);
                pass(&mut player, &mut ours);
                pass(&mut ours, &mut player);
            }
        }
    }
    front.nothing_happened();
}

/// A byte from a client may come while its server is being connected to.
fn say_more(player: &mut Peer) {
    assert_eq!(player.say(b"more"), 4);
}

#[test]
fn who_waits_for_a_node_a_whole_tick_is_handed_over_with_the_socket() {
    let (deaf, words) = (Deaf::open(), Words::new());
    let front = Front::of(Handle::start_with(Tools::new(BUFFER, 0), words.places(0, 9)).unwrap());
    front.learn(NAME, &nodes(&[nowhere(), deaf.address]), ENDLESS, 7);
    let said = hello(NAME, 0);
    front.knock(&said);
    front.arrival();
    let mut player = front.knock(&said);
    say_more(&mut player);
    front.nothing_happened();
    front.tick(500);
    front.nothing_happened();
    assert_eq!(words.read(), [1, 0]);
    front.tick(1000);
    let arrival = front.arrival();
    assert_eq!(arrival.tried.as_ref().unwrap().plan.owner, 7);
    let (mut ours, socket) = take(arrival, 1, &said);
    ours.expect(b"more");
    let socket = socket.unwrap();
    let server = deaf.wake();
    let mut fds = [PollFd::new(&socket, PollFlags::OUT)];
    poll(&mut fds, None).unwrap();
    Peer::at(socket).say(b"from us");
    server.welcome(b"from us");
    assert_eq!(words.read(), [0, 0]);
    front.nothing_happened();
}

/// The kernel asks again after a second.
#[test]
fn a_node_that_answers_late_but_before_the_tick_plays() {
    let deaf = Deaf::open();
    let front = Front::open();
    let times = Times {
        idle: 60_000,
        ..ENDLESS
    };
    front.learn(NAME, &nodes(&[deaf.address]), times, 0);
    let said = hello(NAME, 0);
    let mut player = front.knock(&said);
    say_more(&mut player);
    let mut leaving = front.knock(&said);
    say_more(&mut leaving);
    leaving.end();
    front.tick(500);
    let server = deaf.wake();
    let words = [&said, &b"more"[..]].concat();
    let mut games = [0, 1].map(|_| server.welcome(&words));
    front.tick(1000); // they are sessions by now
    front.tick(1500);
    let went = |game: &mut Peer| {
        game.hear(1);
        game.told
    };
    let mut gone = None;
    until("the one who left", || {
        gone = games.iter_mut().position(went);
        gone.is_some()
    });
    let [one, two] = games;
    let (gone, mut game) = if gone == Some(0) {
        (one, two)
    } else {
        (two, one)
    };
    drop(gone);
    let end = front.played();
    assert_eq!(
        (end.end, end.peer),
        (End::Closed(Side::Client), leaving.address())
    );
    assert!(end.connect_took.unwrap().as_millis() > 100);
    assert_eq!((end.to_upstream, end.to_client), (words.len() as u64, 0));
    pass(&mut player, &mut game);
    pass(&mut game, &mut player);
    front.tick(2000);
    front.tick(61_500);
    front.nothing_happened();
    front.tick(62_500);
    assert_eq!(front.played().end, End::Idle, "it has its times");
}

#[test]
fn a_node_that_refuses_late_is_told_like_one_that_refuses_at_once() {
    let deaf = Deaf::open();
    let front = Front::with(&[deaf.address]);
    let said = hello(NAME, 0);
    let mut player = front.knock(&said);
    front.tick(500);
    front.nothing_happened();
    drop(deaf);
    let (mut ours, outcome) = take(front.arrival(), 0, &said);
    assert_eq!(outcome.unwrap_err(), Errno::CONNREFUSED);
    pass(&mut player, &mut ours);
    front.tick(1000);
    front.nothing_happened();
}

/// It need not wait for the connection to come about, or not.
#[test]
fn who_leaves_while_a_node_is_asked_is_handed_over_in_time() {
    let deaf = Deaf::open();
    let front = Front::with(&[deaf.address]);
    let said = hello(NAME, 0);
    let (ending, resetting) = (front.knock(&said), front.knock(&said));
    let addresses = [ending.address(), resetting.address()];
    ending.end();
    resetting.reset();
    settle(&front.handle);
    front.tick(500);
    front.nothing_happened();
    front.tick(1000);
    let arrivals = front.arrivals(2);
    assert_eq!([0, 1].map(|index| arrivals[index].peer), addresses);
    for arrival in arrivals {
        let is_reset = arrival.peer == addresses[1];
        let (mut ours, outcome) = take(arrival, 0, &said);
        assert!(outcome.is_ok());
        until("the end", || {
            ours.hear(1);
            ours.told || ours.failed.is_some()
        });
        assert_eq!(ours.failed.is_some(), is_reset);
    }
}

/// Its time is counted from the connection on, like everybody's.
#[test]
fn timeouts_are_not_for_those_who_have_no_game_server_yet() {
    let deaf = Deaf::open();
    let front = Front::open();
    let short = Times {
        idle: 0,
        half_close: 0,
        session: Some(0),
        ..ENDLESS
    };
    front.learn(NAME, &nodes(&[deaf.address]), short, 0);
    let said = hello(NAME, 0);
    let _player = front.knock(&said);
    front.tick(500);
    front.nothing_happened();
    front.tick(1000);
    let (_, outcome) = take(front.arrival(), 0, &said);
    assert!(outcome.is_ok());
    front.nothing_happened();
}
