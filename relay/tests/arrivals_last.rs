//! A listener that is left: those who wait in the kernel's queue by then.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};

use _relay::engine::{Handle, Terms};

mod support;

use support::front::{BUFFER, Front, NAME, Server, hello, knock, nodes};
use support::stage::{ENDLESS, pass};
use support::{Peer, an_address, until};

/// A front that does not accept by itself: its batches are of nobody.
fn idle(listening: &TcpListener) -> Front {
    let handle = Handle::start(BUFFER).unwrap();
    listening.set_nonblocking(true).unwrap();
    let terms = Terms {
        batch: 0,
        trusted: None,
    };
    Front {
        listener: handle.listen(listening.try_clone().unwrap().into(), terms),
        address: listening.local_addr().unwrap(),
        handle,
    }
}

/// So many who have come and said what they want.
fn crowd(address: SocketAddr, count: usize) -> Vec<Peer> {
    let come = |_| {
        let mut peer = knock(address);
        assert!(peer.say(&hello(NAME, 0)) > 0);
        peer
    };
    (0..count).map(come).collect()
}

/// Whether the kernel reset them, and nobody has heard them.
fn is_reset(peer: &mut Peer) -> bool {
    until("an end", || {
        peer.hear(1);
        peer.told || peer.failed.is_some()
    });
    peer.failed == Some(ErrorKind::ConnectionReset)
}

#[test]
fn whoever_waits_is_served_before_the_socket_is_closed() {
    let listening = TcpListener::bind((an_address(), 0)).unwrap();
    let (server, front) = (Server::open(), idle(&listening));
    drop(listening); // the engine has the only copy
    front.learn(NAME, &nodes(&[server.address]), ENDLESS, 0);
    let mut players = crowd(front.address, 100);
    front.nothing_happened();
    assert_eq!(front.handle.accepted(), 0);
    front.handle.unlisten_after(front.listener, 128);
    for player in &mut players {
        let mut game = server.welcome(&hello(NAME, 0));
        pass(&mut game, player); // they come to the server in the order in which they came to us
        pass(player, &mut game);
        player.end();
        game.farewell();
        game.end();
        player.farewell();
    }
    let mut ends = 0;
    until("all ends", || {
        ends += front.handle.played().len();
        ends == players.len()
    });
    assert_eq!(front.handle.accepted(), 100);
    let refused = std::net::TcpStream::connect(front.address).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    front.nothing_happened();
}

#[test]
fn no_more_are_accepted_than_was_said() {
    let listening = TcpListener::bind((an_address(), 0)).unwrap();
    let front = idle(&listening);
    drop(listening);
    let mut players = crowd(front.address, 50);
    front.handle.unlisten_after(front.listener, 20);
    let arrivals = front.arrivals(20); // there is no plan
    assert!(arrivals.iter().all(|one| one.said == hello(NAME, 0)));
    assert!(players[20..].iter_mut().all(is_reset));
    assert!(players[..20].iter_mut().all(|one| !one.has_news()));
    assert_eq!(front.handle.accepted(), 20);
}

#[test]
fn whoever_waits_is_left_to_those_who_share_the_socket() {
    let listening = TcpListener::bind((an_address(), 0)).unwrap();
    let front = idle(&listening);
    let mut players = crowd(front.address, 10);
    front.handle.unlisten(front.listener);
    front.handle.unlisten_after(front.listener, 128); // it is closed
    front.handle.unlisten_after(99, 128);
    front.nothing_happened();
    assert_eq!(front.handle.accepted(), 0);
    for player in &mut players {
        let mut theirs = Peer::at(listening.accept().unwrap().0);
        theirs.expect(&hello(NAME, 0));
        pass(&mut theirs, player);
    }
}
