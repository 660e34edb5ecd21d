//! The engine, spoken to as the rest of the process does.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::sync::Arc;
use std::thread;

use _relay::engine::Handle;
use _relay::meter::Meter;
use _relay::session::{End, Session, Side};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

mod support;

use support::stage::{ENDLESS, Play, ends, pass_the_end, settle};
use support::{Dice, pair, until};

const BUFFER: usize = 1 << 16;

#[test]
fn bytes_go_both_ways_and_are_counted_until_the_session_ends() {
    let handle = Handle::start(BUFFER).unwrap();
    let mut play = Play::begin(&handle, ENDLESS, None);
    assert_eq!(handle.counts(play.token), Some((0, 0)));
    play.ask();
    play.ask();
    play.answer();
    assert_eq!(handle.counts(play.token), Some((2, 1)));
    assert_eq!(handle.counts(play.token + 1), None);
    pass_the_end(&play.player, &mut play.server);
    play.answer();
    assert_eq!(handle.counts(play.token), Some((2, 2)));
    assert!(handle.ended().is_empty());
    pass_the_end(&play.server, &mut play.player);
    let end = ends(&handle, 1)[&play.token].clone();
    assert_eq!(end.end, End::Closed(Side::Client));
    assert_eq!((end.to_upstream, end.to_client), (2, 2));
    assert_eq!(handle.counts(play.token), None);
}

#[test]
fn a_meter_knows_what_moves_while_it_moves_and_when_the_answer_came() {
    let handle = Handle::start(BUFFER).unwrap();
    let meter = Arc::new(Meter::default());
    for round in 1..=2 {
        let (mut player, client) = pair(None);
        let (mut server, upstream) = pair(None);
        let session = Session::new(client, upstream, b"first".to_vec());
        let token = handle.adopt_counted(session, ENDLESS, Some(Arc::clone(&meter)), ());
        server.expect(b"first");
        player.say(b"more");
        server.expect(b"firstmore");
        settle(&handle);
        assert_eq!(meter.moved(), (9 * round, round - 1));
        server.say(b"!");
        player.expect(b"!");
        assert_eq!(handle.counts(token), Some((9, 1)));
        assert_eq!(meter.moved(), (9 * round, round));
        pass_the_end(&player, &mut server);
        pass_the_end(&server, &mut player);
        ends(&handle, 1);
        assert_eq!(
            handle.seen().waits.answer.counts().0.iter().sum::<u64>(),
            round
        );
        assert_eq!(meter.moved(), (9 * round, round));
    }
    let (player, client) = pair(None);
    let (server, upstream) = pair(None);
    handle.adopt(Session::new(client, upstream, Vec::new()), ENDLESS, ());
    drop((player, server));
    ends(&handle, 1);
    assert_eq!(handle.seen().waits.answer.counts().0.iter().sum::<u64>(), 2);
    assert_eq!((meter.begun(), meter.moved()), (0, (18, 2)));
}

#[test]
fn megabytes_each_way_pass_through_tiny_buffers() {
    let handle = Handle::start(5000).unwrap();
    let mut play = Play::begin(&handle, ENDLESS, Some(8192));
    let (up, down) = (Dice::new(1).bytes(2_000_001), Dice::new(2).bytes(1_000_003));
    let mut dice = Dice::new(3);
    until("the ends", || {
        for (peer, words) in [(&mut play.player, &up), (&mut play.server, &down)] {
            let rest = &words[peer.said.len()..];
            if !rest.is_empty() && peer.say(rest) == rest.len() {
                peer.end();
            }
            if dice.hit(2) {
                peer.hear(30_000);
            }
        }
        play.player.told && play.server.told
    });
    assert!(play.server.heard == up && play.player.heard == down);
    let end = ends(&handle, 1)[&play.token].clone();
    assert_eq!((end.to_upstream, end.to_client), (2_000_001, 1_000_003));
}

#[test]
fn a_busy_session_leaves_others_their_turn() {
    let handle = Handle::start(BUFFER).unwrap();
    let mut busy: Vec<_> = (0..3)
        .map(|_| Play::begin(&handle, ENDLESS, None))
        .collect();
    let mut quiet = Play::begin(&handle, ENDLESS, None);
    let words = vec![0; 1 << 20];
    for _ in 0..30 {
        for play in &mut busy {
            play.player.say(&words);
            play.server.hear(1 << 20);
            play.server.say(&words);
            play.player.hear(1 << 20);
        }
    }
    quiet.ask();
    quiet.answer();
    for play in &mut busy {
        until("all of it there", || {
            play.server.hear(1 << 20);
            play.player.hear(1 << 20);
            play.server.heard.len() == play.player.said.len()
                && play.player.heard.len() == play.server.said.len()
        });
    }
}

#[test]
fn a_killed_session_ends_once_whatever_its_state() {
    let handle = Handle::start(BUFFER).unwrap();
    let mut plays: Vec<_> = (0..4)
        .map(|_| Play::begin(&handle, ENDLESS, Some(8192)))
        .collect();
    plays[1].ask();
    let Play { player, server, .. } = &mut plays[2];
    pass_the_end(player, server);
    let words = vec![0; BUFFER];
    while plays[3].player.say(&words) > 0 {
        settle(&handle);
    }
    for _ in 0..3 {
        for play in &plays {
            handle.kill(play.token);
        }
    }
    handle.kill(0);
    handle.kill(u64::MAX);
    let found = ends(&handle, 4);
    settle(&handle);
    assert!(handle.ended().is_empty());
    for mut play in plays {
        assert_eq!(found[&play.token].end, End::Killed);
        until("farewell", || {
            play.server.hear(1 << 16);
            play.server.told || play.server.failed.is_some()
        });
    }
}

#[test]
fn each_reset_is_told_with_its_side_and_reaches_the_other() {
    let handle = Handle::start(BUFFER).unwrap();
    for (side, speaking) in [Side::Client, Side::Upstream]
        .map(|side| [(side, false), (side, true)])
        .concat()
    {
        let play = Play::begin(&handle, ENDLESS, None);
        settle(&handle);
        let (gone, mut left) = match side {
            Side::Client => (play.player, play.server),
            Side::Upstream => (play.server, play.player),
        };
        gone.reset();
        if speaking {
            left.say(b"still here");
        }
        let end = ends(&handle, 1)[&play.token].end.clone();
        assert!(
            [Errno::CONNRESET, Errno::PIPE]
                .map(|errno| End::Lost(side, errno))
                .contains(&end),
            "{end:?}"
        );
        until("the reset", || {
            left.hear(10);
            left.failed == Some(ErrorKind::ConnectionReset)
        });
    }
}

#[test]
fn stop_ends_what_lives_and_says_so_once() {
    let handle = Handle::start(BUFFER).unwrap();
    let mut plays: Vec<_> = (0..100)
        .map(|_| Play::begin(&handle, ENDLESS, None))
        .collect();
    plays[7].ask();
    handle.kill(plays[9].token);
    let unheard = Play::begin(&handle, ENDLESS, None); // it may not have begun
    handle.stop();
    let found = ends(&handle, 101);
    for (number, play) in plays.iter_mut().enumerate() {
        let expected = if number == 9 {
            End::Killed
        } else {
            End::Stopped
        };
        assert_eq!(found[&play.token].end, expected);
        until("farewell", || {
            play.player.hear(1);
            play.player.told
        });
    }
    assert_eq!(found[&plays[7].token].to_upstream, 1);
    assert_eq!(found[&unheard.token].end, End::Stopped);
    handle.stop();
    assert!(handle.ended().is_empty());
}

/// Its end may be in the hands of the engine, on its way, or not yet taken: its counts are there all the time.
#[test]
fn counts_do_not_vanish_before_the_end_is_taken() {
    let handle = Handle::start(BUFFER).unwrap();
    for _ in 0..2000 {
        let ((_player, client), (_server, upstream)) = (pair(None), pair(None));
        let session = Session::new(client, upstream, b"first".to_vec());
        let token = handle.adopt(session, ENDLESS, ());
        assert_eq!(handle.counts(token), Some((5, 0)));
        handle.kill(token);
        assert_eq!(handle.counts(token), Some((5, 0)));
        ends(&handle, 1);
        assert_eq!(handle.counts(token), None);
    }
}

#[test]
fn who_owns_a_session_is_given_back_with_its_end() {
    let handle = Handle::<Arc<usize>>::start(BUFFER).unwrap();
    let owners: Vec<_> = (0..50).map(Arc::new).collect();
    let mut peers = Vec::new();
    for owner in &owners {
        let ((player, client), (server, upstream)) = (pair(None), pair(None));
        let session = Session::new(client, upstream, Vec::new());
        let token = handle.adopt(session, ENDLESS, Arc::clone(owner));
        peers.push((token, player, server));
    }
    for (token, ..) in peers.iter().step_by(2) {
        handle.kill(*token);
    }
    handle.stop();
    let mut found = handle.ended();
    assert_eq!(found.len(), owners.len());
    found.sort_by_key(|end| end.token);
    for (end, (number, (token, ..))) in found.iter().zip(peers.iter().enumerate()) {
        assert_eq!((end.token, *end.owner), (*token, number));
    }
    drop(found);
    drop(handle);
    assert!(owners.iter().all(|owner| Arc::strong_count(owner) == 1));
}

#[test]
fn tokens_are_never_used_again() {
    let handle = Handle::start(BUFFER).unwrap();
    let (mut tokens, mut previous) = (HashSet::new(), 0);
    for _ in 0..300 {
        let play = Play::begin(&handle, ENDLESS, None);
        assert!(tokens.insert(play.token));
        // A stranger's token; its place in the engine is this session's by now.
        handle.kill(previous);
        assert_eq!(handle.counts(previous), None);
        assert_eq!(handle.counts(play.token), Some((0, 0)));
        handle.kill(play.token);
        assert_eq!(ends(&handle, 1)[&play.token].end, End::Killed);
        previous = play.token;
    }
}

#[test]
fn done_is_readable_exactly_when_there_are_ends() {
    let handle = Handle::start(BUFFER).unwrap();
    let readable = |patience: i64| {
        let mut done = [PollFd::from_borrowed_fd(handle.done(), PollFlags::IN)];
        let patience = Timespec {
            tv_sec: patience,
            tv_nsec: 0,
        };
        poll(&mut done, Some(&patience)).unwrap() == 1
    };
    assert!(!readable(0));
    for count in 1..10 {
        let plays: Vec<_> = (0..count)
            .map(|_| Play::begin(&handle, ENDLESS, None))
            .collect();
        for play in &plays {
            handle.kill(play.token);
        }
        assert!(readable(20));
        settle(&handle);
        assert!(readable(0), "nobody has asked yet");
        assert_eq!(handle.ended().len(), count);
        settle(&handle);
        assert!(!readable(0));
    }
}

#[test]
fn a_descriptor_that_epoll_does_not_take_ends_its_session_alone() {
    let handle = Handle::start(BUFFER).unwrap();
    let mut other = Play::begin(&handle, ENDLESS, None);
    for side in [Side::Client, Side::Upstream] {
        let (mut peer, socket) = pair(None);
        let file = std::fs::File::open("/proc/self/exe").unwrap().into();
        let session = match side {
            Side::Client => Session::new(file, socket, Vec::new()),
            Side::Upstream => Session::new(socket, file, Vec::new()),
        };
        let token = handle.adopt(session, ENDLESS, ());
        assert_eq!(ends(&handle, 1)[&token].end, End::Lost(side, Errno::PERM));
        until("farewell", || {
            peer.hear(1);
            peer.told
        });
    }
    other.ask();
}

#[test]
fn many_threads_may_speak_to_one_engine() {
    const THREADS: u64 = 4;
    const EACH: usize = 100;
    let handle = Handle::start(BUFFER).unwrap();
    let done = thread::scope(|scope| {
        for seed in 0..THREADS {
            let handle = &handle;
            scope.spawn(move || {
                let mut dice = Dice::new(seed);
                for now in 0..EACH {
                    let mut play = Play::begin(handle, ENDLESS, None);
                    play.ask();
                    play.answer();
                    assert_eq!(handle.counts(play.token), Some((1, 1)));
                    handle.tick(now as u64);
                    if dice.hit(2) {
                        handle.kill(play.token);
                        handle.kill(play.token);
                    }
                }
            });
        }
        ends(&handle, EACH * usize::try_from(THREADS).unwrap())
    });
    assert!(
        done.values()
            .all(|end| (end.to_upstream, end.to_client) == (1, 1))
    );
}

/// An urgent byte cuts a read short before the queue is empty, though nothing more will be announced.
#[test]
fn bytes_behind_an_urgent_one_are_not_left_lying() {
    let handle = Handle::start(BUFFER).unwrap();
    let ((mut player, client), (mut server, upstream)) = (pair(None), pair(Some(4096)));
    handle.adopt(Session::new(client, upstream, Vec::new()), ENDLESS, ());
    let words = Dice::new(1).bytes(100_000);
    assert_eq!(player.say(&words), words.len());
    settle(&handle); // the engine holds what the server does not take; the rest lies before it
    player.shout(b'!');
    player.say(b"and more");
    until("the bytes behind", || {
        server.hear(BUFFER);
        server.heard.len() == player.said.len()
    });
    assert!(
        server.heard == player.said,
        "the urgent byte is not among them"
    );
}
