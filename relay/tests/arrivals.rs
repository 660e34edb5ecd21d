//! Those who come and are played by a plan.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use _relay::deadlines::TICK;
use _relay::engine::{Handle, Terms, Times};
use _relay::meter::Meter;
use _relay::plans::Plan;
use _relay::session::{End, Side};
use rustix::io::Errno;

mod support;

use support::front::{BATCH, Front, NAME, Server, cut, hello, knock, listen, nodes, plan};
use support::stage::{ENDLESS, LONG, pass, pass_the_end, settle};
use support::{Dice, Peer, until};

/// One server, and an engine that leads there.
fn open() -> (Server, Front) {
    let server = Server::open();
    let front = Front::with(&[server.address]);
    (server, front)
}

/// Nobody is left to speak, and all that was said has been heard.
fn close(first: &Peer, second: &mut Peer, front: &Front) -> End {
    first.end();
    second.farewell();
    second.end();
    front.played().end
}

#[test]
fn what_is_said_comes_to_the_game_server_as_it_is_and_once() {
    let (server, front) = open();
    let words = hello(NAME, 300);
    let mut player = front.knock(&words);
    let mut game = server.welcome(&words);
    game.say(b"welcome");
    player.expect(b"welcome");
    pass(&mut player, &mut game);
    front.nothing_happened();
    let address = player.address();
    player.end();
    game.farewell();
    pass(&mut game, &mut player);
    game.end();
    player.farewell();
    let end = front.played();
    assert_eq!(end.end, End::Closed(Side::Client));
    assert_eq!((end.node, end.plan.owner), (0, 0));
    assert_eq!(end.peer, address);
    assert_eq!(end.to_upstream, words.len() as u64 + 1);
    assert_eq!(end.to_client, b"welcome".len() as u64 + 1);
    let connected = end.hello_took + end.connect_took.unwrap();
    assert!(Duration::ZERO < end.hello_took && connected <= end.lasted);
    assert_eq!(front.handle.accepted(), 1);
    assert!(server.guest().is_none(), "one connection is enough");
    assert!(front.handle.ended().is_empty(), "it was not handed over");
    front.nothing_happened();
}

#[test]
fn whoever_goes_by_a_plan_is_counted_where_it_says() {
    let (server, front) = open();
    let meter = Arc::new(Meter::default());
    let metered = Plan {
        meter: Some(Arc::clone(&meter)),
        ..plan(&nodes(&[server.address]), ENDLESS, 7)
    };
    front.handle.learn(0, "metered.example", metered);
    let words = hello("metered.example", 300);
    let mut player = front.knock(&words);
    let mut game = server.welcome(&words);
    assert_eq!(meter.begun(), 1);
    pass(&mut game, &mut player);
    pass(&mut player, &mut game);
    settle(&front.handle);
    let moved = (words.len() as u64 + 1, 1);
    assert_eq!(meter.moved(), moved, "while it plays");
    player.end();
    game.farewell();
    game.end();
    let end = front.played();
    assert_eq!((end.to_upstream, end.to_client), moved);
    let waits = &front.handle.seen().waits;
    for one in [&waits.hello, &waits.connect, &waits.answer] {
        assert_eq!(one.counts().0.iter().sum::<u64>(), 1);
    }
    let mut player = front.knock(&words[..40]);
    front.nothing_happened();
    player.say(&words[40..]);
    server.welcome(&words);
    settle(&front.handle);
    assert_eq!((meter.begun(), meter.moved().0), (2, 2 * moved.0 - 1));
    assert_eq!(
        front.handle.seen().hellos.counts(),
        [1, 0, 0, 1],
        "whole, and in pieces"
    );
}

#[test]
fn the_side_that_ends_first_is_told() {
    let (server, front) = open();
    let words = hello(NAME, 0);
    for first in [Side::Client, Side::Upstream] {
        let mut player = front.knock(&words);
        let mut game = server.welcome(&words);
        let end = match first {
            Side::Client => close(&player, &mut game, &front),
            Side::Upstream => close(&game, &mut player, &front),
        };
        assert_eq!(end, End::Closed(first));
    }
}

#[test]
fn each_reset_is_told_with_its_side_and_reaches_the_other() {
    let (server, front) = open();
    let words = hello(NAME, 0);
    for side in [Side::Client, Side::Upstream] {
        let player = front.knock(&words);
        let game = server.welcome(&words);
        let (gone, mut left) = match side {
            Side::Client => (player, game),
            Side::Upstream => (game, player),
        };
        gone.reset();
        assert_eq!(front.played().end, End::Lost(side, Errno::CONNRESET));
        until("the reset", || {
            left.hear(10);
            left.failed == Some(ErrorKind::ConnectionReset)
        });
    }
}

#[test]
fn who_says_all_and_leaves_before_being_accepted_is_played_to_the_end() {
    let (server, handle) = (Server::open(), Handle::start(1 << 16).unwrap());
    let listening = TcpListener::bind("127.0.0.1:0").unwrap();
    listening.set_nonblocking(true).unwrap();
    let words = hello(NAME, 0);
    let mut player = knock(listening.local_addr().unwrap());
    player.say(&words);
    player.end();
    handle.learn(0, NAME, plan(&nodes(&[server.address]), ENDLESS, 0));
    handle.listen(
        listening.into(),
        Terms {
            batch: 1,
            trusted: None,
        },
    );
    let mut game = server.welcome(&words);
    game.farewell();
    pass(&mut game, &mut player);
    game.end();
    player.farewell();
    until("the end", || {
        let end = handle.played();
        end.first().map(|one| &one.end) == Some(&End::Closed(Side::Client))
    });
}

/// Up to what the engine reads at once, and beyond.
#[test]
fn bytes_right_behind_the_hello_follow_it() {
    let (server, front) = open();
    for size in [1, 1000, 30_000, 32 * 1024, 40_000, 500_000] {
        let words = [
            hello(NAME, 0),
            Dice::new(size).bytes(size.try_into().unwrap()),
        ]
        .concat();
        let mut player = knock(front.address);
        let mut game = None;
        player.say_all(&words, || {
            game = game.take().or_else(|| server.guest());
            if let Some(game) = &mut game {
                game.hear(1 << 16);
            }
        });
        let mut game = game.unwrap_or_else(|| server.wait());
        game.expect(&words);
        assert_eq!(close(&player, &mut game, &front), End::Closed(Side::Client));
    }
}

#[test]
fn a_hello_may_be_cut_anywhere() {
    let (server, front) = open();
    let words = hello(NAME, 20);
    for at in 1..words.len() {
        let mut player = front.knock(&words[..at]);
        assert!(server.guest().is_none(), "what is not whole goes nowhere");
        player.say(&words[at..]);
        let mut game = server.welcome(&words);
        assert_eq!(close(&player, &mut game, &front), End::Closed(Side::Client));
    }
    front.nothing_happened();
}

/// What the hello has no end in may have come together with what is behind it.
#[test]
fn segments_may_be_cut_anywhere() {
    let (server, front) = open();
    let mut dice = Dice::new(1);
    for _ in 0..200 {
        let words = [hello(NAME, dice.size(900)), dice.bytes(50)].concat();
        let mut cuts = [cut(&mut dice, words.len()), cut(&mut dice, words.len())];
        cuts.sort_unstable();
        let mut player = front.knock(&words[..cuts[0]]);
        player.say(&words[cuts[0]..cuts[1]]);
        if dice.hit(2) {
            settle(&front.handle);
        }
        player.say(&words[cuts[1]..]);
        let mut game = server.welcome(&words);
        assert_eq!(close(&player, &mut game, &front), End::Closed(Side::Client));
    }
    front.nothing_happened();
}

#[test]
fn a_hello_that_is_larger_than_the_buffer_is_read_in_parts() {
    let server = Server::open();
    let front = Front::of(Handle::start(64).unwrap());
    front.learn(NAME, &nodes(&[server.address]), ENDLESS, 0);
    let length = hello(NAME, 0).len();
    for padding in (0..130).chain([10_000]) {
        let words = hello(NAME, padding);
        assert_eq!(words.len(), length + padding);
        let player = front.knock(&words);
        let mut game = server.welcome(&words);
        assert_eq!(close(&player, &mut game, &front), End::Closed(Side::Client));
    }
}

#[test]
fn a_name_is_what_it_is_in_any_spelling() {
    let (server, front) = open();
    for name in ["PLAY.example.COM", "play.example.com."] {
        let words = hello(name, 0);
        front.knock(&words);
        server.welcome(&words);
        front.played();
    }
}

/// More than one turn may accept.
#[test]
fn all_who_wait_at_the_door_come_in() {
    for batch in [1, 3, BATCH] {
        let (server, handle) = (Server::open(), Handle::start(1 << 16).unwrap());
        let listening = TcpListener::bind("127.0.0.1:0").unwrap();
        listening.set_nonblocking(true).unwrap();
        let words = hello(NAME, 0);
        let callers: Vec<_> = (0..20)
            .map(|_| {
                let mut caller = knock(listening.local_addr().unwrap());
                caller.say(&words);
                caller
            })
            .collect();
        handle.learn(0, NAME, plan(&nodes(&[server.address]), ENDLESS, 0));
        assert_eq!(
            handle.listen(
                listening.into(),
                Terms {
                    batch,
                    trusted: None
                }
            ),
            0
        );
        for _ in &callers {
            server.welcome(&words);
        }
        settle(&handle);
        assert_eq!(handle.accepted(), 20);
    }
}

#[test]
fn an_urgent_byte_behind_the_hello_does_not_hide_what_follows() {
    let (server, front) = open();
    let words = hello(NAME, 0);
    let mut player = front.knock(&words[..9]);
    player.say(&words[9..]);
    player.shout(b'!');
    player.say(b"and more");
    server.welcome(&[&words, &b"and more"[..]].concat());
}

/// Where there is IPv6. Who comes by IPv4 may be told as IPv6.
#[test]
fn addresses_are_told_in_either_family() {
    let loopback = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    if TcpListener::bind(loopback).is_err() {
        return;
    }
    let words = hello(NAME, 0);
    let (server, handle) = (Server::at(loopback), Handle::start(1 << 16).unwrap());
    for (at, by) in [
        (Ipv6Addr::LOCALHOST, IpAddr::from(Ipv6Addr::LOCALHOST)),
        (Ipv6Addr::UNSPECIFIED, Ipv4Addr::LOCALHOST.into()),
    ] {
        let (number, address) = listen(&handle, (at, 0).into(), 1);
        handle.learn(number, NAME, plan(&nodes(&[server.address]), ENDLESS, 0));
        let mut player = Peer::at(TcpStream::connect((by, address.port())).unwrap());
        player.say(&words);
        server.welcome(&words);
        let address = player.address();
        drop(player);
        let mut told = None;
        until("the end", || {
            told = handle.played().first().map(|one| one.peer);
            told.is_some()
        });
        let told = told.unwrap();
        assert!(told.is_ipv6());
        assert_eq!(
            (told.ip().to_canonical(), told.port()),
            (by, address.port())
        );
    }
}

/// Ticks until the session ends; how it did, and when.
fn wind(front: &Front, from: u64) -> (End, u64) {
    for now in (from..).step_by(500).take(1000) {
        front.tick(now);
        if let Some(one) = front.handle.played().first() {
            return (one.end.clone(), now - from);
        }
    }
    panic!("it never ended");
}

#[test]
fn planned_sessions_have_the_times_of_their_plan() {
    let server = Server::open();
    let front = Front::open();
    let words = hello(NAME, 0);
    let idle = Times {
        idle: 3000,
        ..ENDLESS
    };
    let half_close = Times {
        half_close: 3000,
        ..ENDLESS
    };
    let session = Times {
        session: Some(3000),
        ..ENDLESS
    };
    for (times, ends, expected) in [
        (idle, false, End::Idle),
        (half_close, true, End::NeverClosed(Side::Client)),
        (session, false, End::TimeUp),
    ] {
        front.learn(NAME, &nodes(&[server.address]), times, 0);
        front.tick(TICK);
        let player = front.knock(&words);
        let mut game = server.welcome(&words);
        if ends {
            pass_the_end(&player, &mut game);
        }
        let (end, after) = wind(&front, 2 * TICK);
        assert_eq!(end, expected);
        assert!((3000..=5000).contains(&after), "{end:?} after {after}");
    }
    front.learn(NAME, &nodes(&[server.address]), ENDLESS, 0);
    let mut player = front.knock(&words);
    let mut game = server.welcome(&words);
    front.tick(LONG / 2);
    front.nothing_happened();
    pass(&mut player, &mut game);
}

#[test]
fn a_game_server_that_speaks_and_leaves_at_once_is_heard() {
    let (server, front) = open();
    let words = hello(NAME, 0);
    for _ in 0..50 {
        let mut player = front.knock(&words);
        let mut game = server.welcome(&words);
        game.say(b"no");
        drop(game);
        player.expect(b"no");
        player.farewell();
        drop(player);
        assert_eq!(front.played().end, End::Closed(Side::Upstream));
    }
}
