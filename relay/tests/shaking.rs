//! Handshakes in the hands of an engine.

use std::os::fd::OwnedFd;

use _relay::engine::{Handle, Shaken, Unshaken};
use _relay::session::{End, Session, Side};
use _relay::tls::{Alert, Client, Server, Tls};
use rustix::io::Errno;

mod support;

use support::certificates::{Paper, Wish};
use support::party::{NAME, Party, offer};
use support::stage::{ENDLESS, Play, alone, ends, nothing_is_left, open_files, settle};
use support::{Peer, pair, until};

const BUFFER: usize = 4096;
const KERNEL_BUFFERS: [Option<usize>; 2] = [None, Some(4096)];

fn server() -> Server {
    Server::new(offer(&Paper::signed_by_itself(Wish::host(NAME)))).unwrap()
}

fn client() -> Party {
    Party::new(Client::new(None, None).unwrap().connect(NAME).unwrap())
}

fn accept(server: &Server) -> Box<Tls> {
    Box::new(server.accept().unwrap())
}

/// A copy of a socket, which is the handshake's alone.
fn copy(socket: &OwnedFd) -> OwnedFd {
    socket.try_clone().unwrap()
}

/// Says what it has to, and hears what there is.
fn go_on(peer: &mut Peer, party: &mut Party) {
    let count = peer.say(&party.out);
    party.out.drain(..count);
    let before = peer.heard.len();
    peer.hear(1 << 16);
    if peer.heard.len() > before {
        let news = peer.heard.split_off(before);
        party.hear(&news);
    }
}

fn one(handle: &Handle) -> Option<Shaken<()>> {
    let mut all = handle.shaken();
    assert!(all.len() < 2);
    all.pop()
}

/// Waits for the only one that fails.
fn failure(handle: &Handle) -> Unshaken {
    let mut found = None;
    until("a failure", || {
        found = one(handle);
        found.is_some()
    });
    found.unwrap().outcome.err().unwrap()
}

/// A handshake in which the engine is the server; what it says to the player comes to the party.
fn shake(handle: &Handle, peer: &mut Peer, socket: &OwnedFd, server: &Server) -> (Party, Box<Tls>) {
    let mut party = client();
    handle.shake(copy(socket), accept(server), Vec::new(), ());
    let mut tls = None;
    until("a handshake", || {
        go_on(peer, &mut party);
        tls = tls.take().or_else(|| one(handle)?.outcome.ok());
        tls.is_some() && !party.tls.is_handshaking()
    });
    (party, tls.unwrap())
}

#[test]
fn a_session_goes_on_with_what_two_handshakes_have_led_to() {
    let _turn = alone(&KERNEL_BUFFERS);
    let handle = Handle::start(BUFFER).unwrap();
    let ((mut player, near), (mut game, far)) = (pair(None), pair(None));
    let server = server();
    let (mut party, tls) = shake(&handle, &mut player, &near, &server);
    // The game server's, where the first words are the engine's.
    let mut other = Party::new(server.accept().unwrap());
    let ours = Client::new(None, None).unwrap().connect(NAME).unwrap();
    handle.shake(copy(&far), Box::new(ours), Vec::new(), ());
    let mut upstream = None;
    until("the other handshake", || {
        go_on(&mut game, &mut other);
        upstream = upstream.take().or_else(|| one(&handle)?.outcome.ok());
        upstream.is_some()
    });
    let session = Session::new(near, far, b"first".to_vec())
        .with_tls(Side::Client, Some(tls))
        .with_tls(Side::Upstream, upstream);
    let token = handle.adopt(session, ENDLESS, ());
    party.say(b"up");
    other.say(b"down");
    until("both", || {
        go_on(&mut player, &mut party);
        go_on(&mut game, &mut other);
        party.heard == b"down" && other.heard == b"firstup"
    });
    party.close();
    until("the end", || {
        go_on(&mut player, &mut party);
        go_on(&mut game, &mut other);
        game.told
    });
    assert!(other.tls.has_ended());
    game.end(); // no goodbye is needed: it was not first
    let end = &ends(&handle, 1)[&token];
    assert_eq!(
        (&end.end, end.to_upstream, end.to_client),
        (&End::Closed(Side::Client), 7, 4)
    );
}

#[test]
fn what_was_read_before_is_heard_first() {
    let _turn = alone(&KERNEL_BUFFERS);
    let handle = Handle::start(BUFFER).unwrap();
    let (mut player, near) = pair(None);
    let mut party = client();
    let mut hello = party.sends();
    party.out = hello.split_off(100);
    handle.shake(near, accept(&server()), hello, ());
    let mut done = None;
    until("a handshake", || {
        go_on(&mut player, &mut party);
        done = done.take().or_else(|| one(&handle));
        done.is_some()
    });
    assert!(done.unwrap().outcome.is_ok());
}

#[test]
fn each_way_to_fail_has_its_word_and_the_connection_is_closed() {
    let _turn = alone(&KERNEL_BUFFERS);
    let server = server();
    let handle = Handle::start(BUFFER).unwrap();
    for half in [false, true] {
        let begin = || {
            let (mut player, near) = pair(None);
            if half {
                assert_eq!(player.say(&client().sends()[..50]), 50);
            }
            handle.shake(near, accept(&server), Vec::new(), ());
            settle(&handle);
            player
        };
        begin().reset();
        assert_eq!(failure(&handle), Unshaken::Lost(Errno::CONNRESET));
        drop(begin());
        assert_eq!(failure(&handle), Unshaken::Closed);
        begin().end();
        assert_eq!(failure(&handle), Unshaken::Closed);
    }
    let (mut player, near) = pair(None);
    handle.shake(near, accept(&server), Vec::new(), ());
    player.say(b"\x16\x03\x03\0\x04\x0e\0\0\0"); // a message whose turn it is not
    let Unshaken::Failed(failed) = failure(&handle) else {
        panic!("failed");
    };
    assert_eq!(failed.alert, Alert::Sent(10));
    until("the alert and the end", || {
        player.hear(100);
        player.told
    });
    assert!(player.heard.ends_with(&[2, 10]));
    let (mut player, near) = pair(None);
    handle.shake(near, accept(&server), Vec::new(), ());
    player.say(b"\x15\x03\x01\0\x02\x01\0"); // goodbye
    let Unshaken::Failed(failed) = failure(&handle) else {
        panic!("failed");
    };
    assert_eq!(failed.alert, Alert::Received(0));
}

#[test]
fn who_is_abandoned_is_gone_at_once_and_nobody_is_told() {
    let _turn = alone(&KERNEL_BUFFERS);
    let before = open_files();
    let handle = Handle::start(BUFFER).unwrap();
    let server = server();
    for said in [0, 50] {
        let (mut player, near) = pair(None);
        let token = handle.shake(near, accept(&server), Vec::new(), ());
        player.say(&client().sends()[..said]);
        settle(&handle);
        for _ in 0..2 {
            handle.abandon(token);
        }
        until("the end", || {
            player.hear(1);
            player.told || player.failed.is_some()
        });
        settle(&handle);
        assert!(handle.shaken().is_empty());
    }
    drop(handle);
    nothing_is_left(before);
}

#[test]
fn an_engine_that_stops_takes_handshakes_with_it() {
    let _turn = alone(&KERNEL_BUFFERS);
    let before = open_files();
    let handle = Handle::start(BUFFER).unwrap();
    let server = server();
    let players: Vec<_> = (0..20)
        .map(|number| {
            let (mut player, near) = pair(None);
            handle.shake(near, accept(&server), Vec::new(), ());
            player.say(&client().sends()[..10 * number]);
            player
        })
        .collect();
    settle(&handle);
    handle.stop();
    // And who comes too late.
    let (late, near) = pair(None);
    handle.shake(near, accept(&server), Vec::new(), ());
    for mut player in players.into_iter().chain([late]) {
        until("the end", || {
            player.hear(1);
            player.told || player.failed.is_some()
        });
    }
    assert!(handle.shaken().is_empty());
    drop(handle);
    nothing_is_left(before);
}

#[test]
fn who_does_not_read_is_waited_for_and_finds_all_of_it() {
    let _turn = alone(&KERNEL_BUFFERS);
    // A flight that does not fit between the two.
    let root = Paper::signed_by_itself(Wish::authority("root"));
    let mut paper = root.sign(Wish::host(NAME));
    for _ in 0..7 {
        let more = paper.chain.clone();
        paper.chain.push_str(&more);
    }
    let server = Server::new(offer(&paper)).unwrap();
    let handle = Handle::start(BUFFER).unwrap();
    let (mut player, near) = pair(Some(4096));
    let mut party = client();
    handle.shake(near, accept(&server), party.sends(), ());
    let mut play = Play::begin(&handle, ENDLESS, None);
    for _ in 0..20 {
        play.ask();
        play.answer();
    }
    assert!(handle.shaken().is_empty());
    let mut done = None;
    until("a handshake", || {
        let count = player.say(&party.out);
        party.out.drain(..count);
        player.hear(1000);
        let news = std::mem::take(&mut player.heard);
        if !news.is_empty() {
            party.hear(&news);
        }
        done = done.take().or_else(|| one(&handle));
        done.is_some()
    });
    assert!(done.unwrap().outcome.is_ok());
    // Another one who never does.
    let (mut player, near) = pair(Some(4096));
    let token = handle.shake(near, accept(&server), client().sends(), ());
    settle(&handle);
    handle.abandon(token);
    until("the end", || {
        player.hear(1 << 16);
        player.told || player.failed.is_some()
    });
    assert!(handle.shaken().is_empty());
}

#[test]
fn a_storm_is_worked_off_while_others_play() {
    let _turn = alone(&KERNEL_BUFFERS);
    let handle = Handle::start(BUFFER).unwrap();
    let server = server();
    let mut play = Play::begin(&handle, ENDLESS, None);
    let mut storm: Vec<_> = (0..100)
        .map(|_| {
            let ((mut player, near), mut party) = (pair(None), client());
            go_on(&mut player, &mut party);
            handle.shake(near, accept(&server), Vec::new(), ());
            (player, party)
        })
        .collect();
    let mut done = 0;
    until("all of them", || {
        play.ask();
        play.answer();
        for (player, party) in &mut storm {
            go_on(player, party);
        }
        for shaken in handle.shaken() {
            assert!(shaken.outcome.is_ok());
            done += 1;
        }
        done == storm.len()
    });
}
