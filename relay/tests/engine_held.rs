//! What is asked of an engine: who plays by which plan, how much is held, and that whoever holds the most goes.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::mem::replace;
use std::time::{Duration, Instant};

use _relay::engine::Handle;
use _relay::places::Places;
use _relay::session::{End, Session};
use _relay::tools::Tools;

mod support;

use support::front::{Deaf, Front, NAME, Server, hello, nodes};
use support::stage::{ENDLESS, Play, ends, settle};
use support::{Dice, Peer, pair, until};

const BUFFER: usize = 1 << 16;
const PIPE: usize = 1 << 20;
const SMALL: Option<usize> = Some(8192);

/// Sessions by plan and node.
fn playing(front: &Front) -> BTreeMap<(usize, usize), usize> {
    let rows = front.handle.playing();
    let count = rows.len();
    let found: BTreeMap<_, _> = rows
        .iter()
        .map(|row| ((row.plan.owner, row.node), row.sessions))
        .collect();
    assert_eq!(found.len(), count, "a row for each");
    found
}

#[test]
fn those_who_go_by_plans_are_counted_by_plan_and_node() {
    let servers = [Server::open(), Server::open(), Server::open()];
    let front = Front::with(&servers.each_ref().map(|one| one.address));
    let deaf = Deaf::open();
    front.learn("deaf", &nodes(&[deaf.address]), ENDLESS, 1);
    front.learn("one", &nodes(&[servers[0].address]), ENDLESS, 2);
    assert!(front.handle.playing().is_empty());
    let mut players: Vec<_> = (0..100).map(|_| front.knock(&hello(NAME, 0))).collect();
    players.extend((0..5).map(|_| front.knock(&hello("deaf", 0))));
    players.extend((0..7).map(|_| front.knock(&hello("one", 0))));
    players.extend((0..3).map(|_| front.knock(&hello("nobody", 0)))); // handed over
    let mut expected = BTreeMap::from([
        ((0, 0), 34),
        ((0, 1), 33),
        ((0, 2), 33),
        ((1, 0), 5), // still on their way
        ((2, 0), 7),
    ]);
    until("all of them", || playing(&front) == expected);
    front.handle.forget();
    front.learn("one", &nodes(&[servers[1].address]), ENDLESS, 3);
    let last = front.knock(&hello("one", 0));
    expected.insert((3, 0), 1);
    until("one more, by another plan", || playing(&front) == expected);
    drop((players, last, servers)); // with their queues
    until("the ends", || {
        front.tick(500); // those on their way are handed over
        front.handle.arrivals();
        playing(&front).is_empty()
    });
    front.handle.stop();
    assert!(front.handle.playing().is_empty());
}

/// A session that holds that much for a game server who takes nothing.
fn owing(handle: &Handle, size: usize) -> (u64, Peer, Peer) {
    let ((player, client), (server, upstream)) = (pair(SMALL), pair(SMALL));
    let session = Session::new(client, upstream, vec![7; size]);
    (handle.adopt(session, ENDLESS, ()), player, server)
}

/// Whether a peer's connection was reset, after whatever it was sent.
fn was_reset(peer: &mut Peer) -> bool {
    until("an end", || {
        peer.hear(1 << 20);
        peer.told || peer.failed.is_some()
    });
    peer.failed == Some(ErrorKind::ConnectionReset)
}

#[test]
fn the_session_that_holds_the_most_goes_first_and_only_that() {
    let handle = Handle::start(BUFFER).unwrap();
    let mut quiet = Play::begin(&handle, ENDLESS, None);
    assert_eq!((handle.held(), handle.shed(0)), (0, 0));
    let mut dice = Dice::new(5);
    let mut sizes: Vec<_> = (0..50).map(|_| PIPE + dice.size(PIPE)).collect();
    let mut sessions: BTreeMap<_, _> = sizes
        .iter()
        .map(|&size| {
            let (token, player, server) = owing(&handle, size);
            (token, (size, player, server))
        })
        .collect();
    assert_eq!(handle.held(), sizes.iter().sum::<usize>());
    sizes.sort_unstable();
    while sizes.len() > 1 {
        let size = sizes.pop().unwrap();
        assert_eq!(handle.shed(size), 0, "not more than that");
        assert_eq!(handle.shed(sizes[0]), size);
        settle(&handle);
        let [end] = &handle.ended()[..] else {
            panic!("one ends, and it alone");
        };
        let (held, mut player, mut server) = sessions.remove(&end.token).unwrap();
        assert_eq!((held, &end.end), (size, &End::Shed));
        assert!(end.to_upstream < size as u64);
        assert!(was_reset(&mut player) && was_reset(&mut server));
        assert_eq!(handle.held(), sizes.iter().sum::<usize>());
    }
    let (_, (size, _player, mut server)) = sessions.pop_first().unwrap();
    server.expect(&vec![7; size]);
    settle(&handle);
    assert_eq!((handle.held(), handle.shed(0)), (0, 0));
    quiet.ask();
    quiet.answer();
    assert!(handle.ended().is_empty());
    handle.stop();
    assert_eq!((handle.held(), handle.shed(0)), (0, 0));
}

/// What is held once nothing moves any more, for longer than a kernel waits with an acknowledgement.
fn at_rest(handle: &Handle, mut meanwhile: impl FnMut()) -> usize {
    let (mut held, mut since) = (0, Instant::now());
    until("rest", || {
        meanwhile();
        let before = replace(&mut held, handle.held());
        if held != before {
            since = Instant::now();
        }
        since.elapsed() > Duration::from_millis(60)
    });
    held
}

#[test]
fn what_lies_in_a_pipe_is_held_too() {
    let handle = Handle::start_with(Tools::new(BUFFER, 1), Places::alone(9)).unwrap();
    let words = vec![1; PIPE];
    let mut found = None;
    until("one who stalls in bulk", || {
        let mut play = Play::begin(&handle, ENDLESS, Some(200_000));
        let held = at_rest(&handle, || _ = play.server.say(&words));
        // Whoever stalls before there is much to move is copied for, and holds no more than a buffer.
        if held > BUFFER {
            found = Some((play, held));
        } else {
            handle.kill(play.token);
            ends(&handle, 1);
        }
        found.is_some()
    });
    let (mut play, held) = found.unwrap();
    assert!(held <= PIPE);
    let heard = handle.counts(play.token).unwrap().1;
    assert!(handle.shed(0) >= held);
    assert!(was_reset(&mut play.player) && was_reset(&mut play.server));
    assert!(heard <= play.server.said.len() as u64);
    assert_eq!(handle.held(), 0);
}
