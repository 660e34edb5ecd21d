//! Those who come and are handed over, as far as they have come.

use std::time::Duration;

use _relay::engine::{Arrival, Handle};
use _relay::plans::MOST_PLANS;
use _relay::session::{End, Side};
use _relay::tools::Tools;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

mod support;

use support::front::{
    BUFFER, Front, NAME, Server, Words, cut, hello, is_watched, knock, listen, nodes, nowhere, plan,
};
use support::stage::{ENDLESS, settle};
use support::{Dice, Peer, an_address, until};

/// An engine without a plan for anybody who asks for `NAME`, but with one for others.
fn open() -> Front {
    let front = Front::open();
    front.learn("other.example.com", &nodes(&[nowhere()]), ENDLESS, 0);
    front
}

/// Looks at one who is handed over, in whose socket nothing is left; the socket goes on.
fn take(arrival: Arrival<usize>, player: &mut Peer, said: &[u8]) -> Peer {
    assert!(arrival.said == said, "not what was said");
    assert_eq!((arrival.peer, arrival.failure), (player.address(), None));
    assert!(arrival.tried.is_none());
    assert!(arrival.waited > Duration::ZERO);
    assert!(!is_watched(&arrival.socket));
    let mut ours = Peer::at(arrival.socket);
    player.say(b"and more");
    ours.expect(b"and more");
    ours.say(b"welcome");
    player.expect(b"welcome");
    ours
}

#[test]
fn who_asks_for_what_is_in_no_plan_is_handed_over_with_all_that_was_said() {
    let front = open();
    let mut dice = Dice::new(1);
    for _ in 0..100 {
        let words = [hello(NAME, dice.size(500)), dice.bytes(9)].concat();
        let at = cut(&mut dice, hello(NAME, 0).len());
        let mut player = front.knock(&words[..at]);
        front.nothing_happened();
        player.say(&words[at..]);
        let arrival = front.arrival();
        assert_eq!(arrival.listener, front.listener);
        take(arrival, &mut player, &words);
    }
    assert_eq!(front.handle.accepted(), 100);
}

#[test]
fn what_is_no_plain_hello_is_handed_over_at_once() {
    let front = Front::with(&[nowhere()]);
    let sound = hello(NAME, 0);
    let broken = |at: usize| {
        let mut bytes = sound.clone();
        bytes[at] ^= 0x40;
        bytes
    };
    for words in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"\x15",
        b"\x16\x02",
        b"\x16\x03\x01\x00\x00",
        &broken(5),
        &broken(8),
        &broken(43),
        &hello("10.0.0.1", 0),
        &hello("under score.example", 0),
    ] {
        let mut player = front.knock(words);
        take(front.arrival(), &mut player, words);
    }
}

#[test]
fn who_ends_before_all_is_said_is_handed_over_and_ends_there_again() {
    let front = Front::with(&[nowhere()]);
    let words = hello(NAME, 0);
    for said in [0, 1, 5, words.len() - 1] {
        for heard_before in [false, true] {
            let mut player = knock(front.address);
            player.say(&words[..said]);
            if heard_before {
                settle(&front.handle);
            }
            player.end();
            let arrival = front.arrival();
            assert_eq!(arrival.said, words[..said]);
            assert_eq!(arrival.failure, None);
            assert!(!is_watched(&arrival.socket));
            let mut ours = Peer::at(arrival.socket);
            ours.farewell();
            ours.say(b"too short");
            player.expect(b"too short");
        }
    }
}

#[test]
fn who_resets_before_all_is_said_is_handed_over_with_the_reason() {
    let front = Front::with(&[nowhere()]);
    let words = hello(NAME, 0);
    for said in [0, 1, 5, words.len() - 1] {
        let player = front.knock(&words[..said]);
        let address = player.address();
        player.reset();
        let arrival = front.arrival();
        assert_eq!(arrival.said, words[..said]);
        assert_eq!(arrival.failure, Some(Errno::CONNRESET));
        assert_eq!(arrival.peer, address);
        assert!(!is_watched(&arrival.socket));
        Peer::at(arrival.socket).farewell();
    }
}

#[test]
fn who_has_not_said_all_in_a_whole_tick_is_handed_over() {
    let server = Server::open();
    let front = Front::with(&[server.address]);
    let words = hello(NAME, 100);
    let mut now = 0;
    for said in [0, 1, 4, 5, 50, words.len() - 1] {
        for more in [false, true] {
            let mut player = front.knock(&words[..said]);
            now += 500;
            front.tick(now);
            front.nothing_happened();
            let mut said = said;
            if more && said + 1 < words.len() {
                player.say(&words[said..=said]); // does not put it off
                said += 1;
            }
            front.nothing_happened();
            now += 500;
            front.tick(now);
            let mut ours = take(front.arrival(), &mut player, &words[..said]);
            player.say(&words[said..]);
            ours.expect(&[b"and more", &words[said..]].concat());
        }
    }
    assert!(server.guest().is_none());
}

#[test]
fn who_says_all_between_two_ticks_is_played() {
    let server = Server::open();
    let front = Front::with(&[server.address]);
    let words = hello(NAME, 100);
    let mut player = front.knock(&words[..50]);
    front.tick(500);
    player.say(&words[50..]);
    let mut game = server.welcome(&words);
    for now in 2..9 {
        front.tick(500 * now);
    }
    front.nothing_happened();
    player.say(b"!");
    game.expect(&[&words, &b"!"[..]].concat());
}

/// Somebody else has the place of the one who waited.
#[test]
fn a_tick_that_is_late_for_one_is_not_for_the_next() {
    let front = Front::with(&[nowhere()]);
    let words = hello(NAME, 0);
    for now in 1..50 {
        let first = front.knock(&words[..9]);
        front.tick(1000 * now);
        drop(first);
        assert_eq!(front.arrival().said, words[..9]);
        let mut second = front.knock(&words[..20]);
        front.tick(1000 * now + 500);
        front.nothing_happened();
        front.tick(1000 * now + 900);
        take(front.arrival(), &mut second, &words[..20]);
    }
}

#[test]
fn forgotten_plans_are_off_until_they_are_learned_again() {
    let server = Server::open();
    let front = Front::with(&[server.address]);
    let words = hello(NAME, 0);
    let mut player = front.knock(&words);
    let mut game = server.welcome(&words);
    for owner in 1..4 {
        front.handle.forget();
        let mut other = front.knock(&words);
        take(front.arrival(), &mut other, &words);
        front.learn(NAME, &nodes(&[server.address]), ENDLESS, owner);
        front.knock(&words);
        server.welcome(&words);
        assert_eq!(front.played().plan.owner, owner);
    }
    player.say(b"!"); // who plays goes on
    game.expect(&[&words, &b"!"[..]].concat());
    drop((player, game));
    assert_eq!(front.played().plan.owner, 0);
}

#[test]
fn a_plan_that_is_learned_anew_is_another_for_the_next_only() {
    let servers = [Server::open(), Server::open()];
    let front = Front::with(&[servers[0].address]);
    let words = hello(NAME, 0);
    let players = [0, 1].map(|owner| {
        front.learn(NAME, &nodes(&[servers[owner].address]), ENDLESS, owner);
        (front.knock(&words), servers[owner].welcome(&words))
    });
    for (owner, pair) in players.into_iter().enumerate() {
        drop(pair);
        assert_eq!(front.played().plan.owner, owner);
    }
}

#[test]
fn a_plan_for_one_listener_is_none_for_another() {
    let server = Server::open();
    let front = Front::with(&[server.address]);
    let words = hello(NAME, 0);
    let (number, address) = listen(&front.handle, (an_address(), 0).into(), 1);
    assert_ne!(number, front.listener);
    let mut player = knock(address);
    player.say(&words);
    let arrival = front.arrival();
    assert_eq!(arrival.listener, number);
    take(arrival, &mut player, &words);
    let other = plan(&nodes(&[server.address]), ENDLESS, 5);
    front.handle.learn(number, NAME, other);
    for (address, owner) in [(address, 5), (front.address, 0)] {
        let mut player = knock(address);
        player.say(&words);
        server.welcome(&words);
        drop(player);
        assert_eq!(front.played().plan.owner, owner);
    }
}

#[test]
fn one_plan_too_many_makes_room_for_itself() {
    let server = Server::open();
    let front = Front::with(&[server.address]);
    let nodes = nodes(&[server.address]);
    for number in 0..MOST_PLANS {
        front.learn(&format!("{number}.example.com"), &nodes, ENDLESS, number);
    }
    let forgotten = hello(NAME, 0);
    front.knock(&forgotten);
    assert!(front.arrival().said == forgotten);
    let words = hello(&format!("{}.example.com", MOST_PLANS - 1), 0);
    front.knock(&words);
    server.welcome(&words);
    assert_eq!(front.played().plan.owner, MOST_PLANS - 1);
}

#[test]
fn who_finds_no_place_is_handed_over_unheard() {
    let (server, words) = (Server::open(), Words::new());
    let front = Front::of(Handle::start_with(Tools::new(BUFFER, 0), words.places(1, 3)).unwrap());
    front.learn(NAME, &nodes(&[server.address]), ENDLESS, 0);
    words.write(0, 1); // another worker has one
    let said = hello(NAME, 0);
    let mut playing: Vec<_> = (0..2)
        .map(|_| (front.knock(&said), server.welcome(&said)))
        .collect();
    for count in 1..4 {
        let mut player = front.knock(&said);
        assert_eq!(words.read(), [1, 3], "who came too late counts until taken");
        let arrival = front.arrival();
        assert_eq!(words.read(), [1, 2]);
        assert!(arrival.said.is_empty() && arrival.tried.is_none());
        assert!(!is_watched(&arrival.socket));
        assert_eq!(arrival.peer, player.address());
        let mut ours = Peer::at(arrival.socket);
        ours.expect(&said);
        pass_on(&mut ours, &mut player);
        assert!(server.guest().is_none(), "{count}");
    }
    playing.pop();
    assert_eq!(front.played().end, End::Closed(Side::Client));
    assert_eq!(words.read(), [1, 1]);
    let _in_time = (front.knock(&said), server.welcome(&said));
    words.write(0, 0); // the other worker's has ended
    let half = front.knock(&said[..30]); // who has not said all has a place too
    assert_eq!(words.read(), [0, 3]);
    front.knock(&said);
    assert!(front.arrival().said.is_empty());
    drop(half);
    assert_eq!(front.arrival().said, said[..30]);
    front.handle.stop();
    assert_eq!(front.handle.played().len(), 2);
    assert_eq!(words.read(), [0, 0]);
}

fn pass_on(from: &mut Peer, to: &mut Peer) {
    from.say(b"wait");
    to.expect(b"wait");
}

#[test]
fn a_listener_that_is_closed_lets_nobody_in() {
    let server = Server::open();
    let front = Front::with(&[server.address]);
    let words = hello(NAME, 0);
    let mut player = front.knock(&words);
    let mut game = server.welcome(&words);
    let mut half = front.knock(&words[..30]);
    front.handle.unlisten(front.listener);
    front.handle.unlisten(front.listener);
    front.handle.unlisten(99);
    assert!(std::net::TcpStream::connect(front.address).is_err());
    player.say(b"!"); // who is in stays in
    game.expect(&[&words, &b"!"[..]].concat());
    half.say(&words[30..]);
    server.welcome(&words);
    drop(half);
    front.played();
    assert_eq!(front.handle.accepted(), 2);
    front.handle.stop();
    front.handle.unlisten(front.listener);
    let (_, address) = listen(&front.handle, (an_address(), 0).into(), 1);
    assert!(std::net::TcpStream::connect(address).is_err());
}

#[test]
fn each_list_is_readable_exactly_when_there_is_something_in_it() {
    let server = Server::open();
    let front = Front::with(&[server.address]);
    let readable = || {
        settle(&front.handle);
        let fds = [
            front.handle.done(),
            front.handle.over(),
            front.handle.knocks(),
        ];
        let mut fds = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut fds, Some(&at_once)).unwrap();
        fds.map(|fd| fd.revents().contains(PollFlags::IN))
    };
    assert_eq!(readable(), [false, false, false]);
    for count in 1..5 {
        for _ in 0..count {
            front.knock(b"GET /");
        }
        assert_eq!(readable(), [false, false, true]);
        let words = hello(NAME, 0);
        for _ in 0..count {
            let _game = (front.knock(&words), server.welcome(&words));
        }
        until("ends", || readable()[1]);
        assert_eq!(readable(), [false, true, true]);
        assert_eq!(front.arrivals(count).len(), count);
        assert_eq!(readable(), [false, true, false]);
        let mut ends = 0;
        until("ends", || {
            ends += front.handle.played().len();
            ends == count
        });
        assert_eq!(readable(), [false, false, false]);
    }
}
