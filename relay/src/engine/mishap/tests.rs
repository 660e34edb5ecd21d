//! Panics where no test from outside can have one.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::super::Times;
use super::super::handle::{Ended, Handle};
use super::super::listening::Terms;
use super::super::orders::{Command, Trap};
use super::super::told::{lock, signal};
use super::*;
use crate::places::Places;
use crate::plans::{Nodes, Plan};
use crate::session::Session;
use crate::tools::Tools;

const ENDLESS: Times = Times {
    idle: 1 << 40,
    half_close: 1 << 40,
    session: None,
    bandwidth: None,
};
/// A hello that asks for the name "a", as short as they come.
const HELLO: &[u8] = b"\x16\x03\x01\0\x39\x01\0\0\x35\x03\x03................................\
    \0\0\x02\x13\x01\x01\0\0\x0a\0\0\0\x06\0\x04\0\0\x01a";

fn until<A>(mut answer: impl FnMut() -> Option<A>) -> A {
    let began = Instant::now();
    loop {
        if let Some(answer) = answer() {
            return answer;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "in vain");
        std::thread::yield_now();
    }
}

fn pair() -> (TcpStream, TcpStream) {
    let door = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let ours = TcpStream::connect(door.local_addr().unwrap()).unwrap();
    let (theirs, _) = door.accept().unwrap();
    theirs.set_nonblocking(true).unwrap();
    ours.set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    (ours, theirs)
}

/// A session, the player's and the server's sides of it.
struct Play {
    token: u64,
    player: TcpStream,
    server: TcpStream,
}

impl Play {
    fn begin(handle: &Handle) -> Self {
        let ((player, client), (server, upstream)) = (pair(), pair());
        let session = Session::new(client.into(), upstream.into(), b"first".to_vec());
        let token = handle.adopt(session, ENDLESS, ());
        let play = Self {
            token,
            player,
            server,
        };
        hears(&play.server, b"first");
        play
    }

    /// Bytes go both ways.
    fn goes_on(&mut self) {
        for _ in 0..3 {
            self.player.write_all(b"up").unwrap();
            hears(&self.server, b"up");
            self.server.write_all(b"down").unwrap();
            hears(&self.player, b"down");
        }
    }

    /// Neither has a connection any more.
    fn is_over(&self) {
        for mut one in [&self.player, &self.server] {
            until(|| match one.read(&mut [0; 100]) {
                Ok(0) => Some(()),
                Ok(_) => None,
                Err(error) => (error.kind() == ErrorKind::ConnectionReset).then_some(()),
            });
        }
    }
}

fn hears(mut peer: &TcpStream, words: &[u8]) {
    let mut heard = vec![0; words.len()];
    peer.read_exact(&mut heard).unwrap();
    assert_eq!(heard, words);
}

fn end(handle: &Handle) -> Ended {
    let mut ends = until(|| Some(handle.ended()).filter(|ends| !ends.is_empty()));
    assert_eq!(ends.len(), 1);
    ends.remove(0)
}

fn is_readable(handle: &Handle) -> bool {
    let mut done = [PollFd::from_borrowed_fd(handle.done(), PollFlags::IN)];
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut done, Some(&at_once)).unwrap() == 1
}

/// What the panic said, with a place in these sources.
fn is_of(trap: Trap, mishap: &str) -> bool {
    mishap.starts_with(&format!("a trap: {trap:?} (")) && mishap.contains("orders.rs:")
}

fn assert_broken_by(end: &End, trap: Trap) {
    let End::Broken(mishap) = end else {
        panic!("{end:?}");
    };
    assert!(is_of(trap, mishap), "{mishap}");
}

/// An engine with a listener where everybody is led to a game server.
struct Front {
    handle: Handle,
    address: SocketAddr,
    game: TcpListener,
}

impl Front {
    fn open() -> Self {
        let handle = Handle::start_with(Tools::new(1 << 12, 0), Places::alone(5)).unwrap();
        let doors = [0; 2].map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap());
        let [door, game] = doors;
        let address = door.local_addr().unwrap();
        door.set_nonblocking(true).unwrap();
        let terms = Terms {
            batch: 9,
            trusted: None,
        };
        let nodes = Nodes::new(vec![game.local_addr().unwrap()], Duration::from_secs(60));
        let plan = Plan {
            tls: None,
            nodes: Arc::new(nodes),
            times: ENDLESS,
            meter: None,
            owner: (),
        };
        handle.learn(handle.listen(door.into(), terms), "a", plan);
        Self {
            handle,
            address,
            game,
        }
    }

    fn knock(&self) -> TcpStream {
        let mut player = TcpStream::connect(self.address).unwrap();
        player.write_all(HELLO).unwrap();
        player
    }

    /// As many come as there are places, and all of them are played: nobody has kept one.
    fn has_all_places(&self) {
        let players: Vec<_> = (0..5).map(|_| self.knock()).collect();
        for _ in &players {
            hears(&self.game.accept().unwrap().0, HELLO);
        }
        drop(players);
        let mut ends = 0;
        until(|| {
            ends += self.handle.played().len();
            (ends == 5).then_some(())
        });
    }
}

#[test]
fn a_panic_in_a_sessions_turn_ends_it_alone() {
    let handle = Handle::start(1 << 12).unwrap();
    let mut others: Vec<_> = (0..10).map(|_| Play::begin(&handle)).collect();
    for _ in 0..3 {
        let mut play = Play::begin(&handle);
        play.goes_on();
        handle.send(Command::Trap(Trap::Turn));
        play.player.write_all(b"!").unwrap();
        let end = end(&handle);
        assert_eq!(
            (end.token, end.to_upstream, end.to_client),
            (play.token, 11, 12)
        );
        assert_broken_by(&end.end, Trap::Turn);
        play.is_over();
        for other in &mut others {
            other.goes_on();
        }
    }
    assert_eq!(handle.mishap(), None);
    assert!(!is_readable(&handle));
    handle.stop();
    assert_eq!(handle.mishap(), None);
    let ends = handle.ended();
    assert!(ends.iter().all(|one| one.end == End::Stopped) && ends.len() == 10);
}

#[test]
fn a_panic_in_the_turn_of_one_who_goes_by_a_plan_is_accounted_for() {
    let front = Front::open();
    for set_out in [false, true] {
        if set_out {
            front.handle.send(Command::Trap(Trap::SetOut));
        }
        let mut player = front.knock();
        let (server, _) = front.game.accept().unwrap();
        let mut trap = Trap::SetOut;
        if !set_out {
            hears(&server, HELLO);
            let [playing] = &front.handle.playing()[..] else {
                panic!("one plays");
            };
            assert_eq!(playing.sessions, 1);
            trap = Trap::Turn;
            front.handle.send(Command::Trap(trap));
            player.write_all(b"!").unwrap();
        }
        let end = until(|| front.handle.played().pop());
        assert_broken_by(&end.end, trap);
        assert_eq!(end.to_upstream, HELLO.len() as u64);
        assert!(end.connect_took.is_some());
        Play {
            token: 0,
            player,
            server,
        }
        .is_over();
        front.has_all_places();
    }
    assert_eq!(front.handle.mishap(), None);
}

#[test]
fn who_cannot_be_read_for_a_panic_is_handed_over() {
    let front = Front::open();
    front.handle.send(Command::Trap(Trap::Read));
    let player = front.knock();
    let arrival = until(|| front.handle.arrivals().pop());
    assert_eq!(arrival.said, HELLO);
    assert_eq!(arrival.peer, player.local_addr().unwrap());
    front.has_all_places();
}

#[test]
fn a_panic_before_somebody_is_a_session_costs_nobody_else_a_place() {
    let front = Front::open();
    front.handle.send(Command::Trap(Trap::Hear));
    let mut player = front.knock();
    let _ = player.read(&mut [0]); // the end, in one way or another
    front.has_all_places();
    assert!(front.handle.arrivals().is_empty() && front.handle.played().is_empty());
    assert_eq!(front.handle.mishap(), None);
}

#[test]
fn an_engine_that_breaks_takes_everybody_with_it_and_says_so() {
    let front = Front::open();
    let handle = &front.handle;
    let plays: Vec<_> = (0..3).map(|_| Play::begin(handle)).collect();
    let planned = front.knock();
    let server = front.game.accept().unwrap().0;
    hears(&server, HELLO);
    let mut half = TcpStream::connect(front.address).unwrap();
    half.write_all(&HELLO[..9]).unwrap();
    until(|| (handle.accepted() == 2).then_some(()));
    assert!(!is_readable(handle));
    handle.send(Command::Trap(Trap::Engine));
    let mishap = until(|| handle.mishap());
    assert!(is_of(Trap::Engine, &mishap), "{mishap}");
    until(|| is_readable(handle).then_some(()));
    // The ends are told before all else: nobody is there any more once all is.
    until(|| lock(&handle.shared.commands).is_none().then_some(()));
    let ends = handle.ended();
    assert_eq!(ends.len(), 3);
    for one in &ends {
        assert_broken_by(&one.end, Trap::Engine);
    }
    assert_broken_by(&handle.played()[0].end, Trap::Engine);
    let arrival = handle.arrivals().remove(0);
    let mut said = arrival.said;
    let mut unread = [0; 9]; // by a thread that had not come to it
    let count = rustix::io::read(&arrival.socket, &mut unread).unwrap_or(0);
    said.extend_from_slice(&unread[..count]);
    assert_eq!(said, &HELLO[..9]);
    plays.iter().for_each(Play::is_over);
    Play {
        token: 0,
        player: planned,
        server,
    }
    .is_over();
    assert!(TcpStream::connect(front.address).is_err());
    assert!(front.handle.shared.places.enter(), "all have left");

    // Whoever asks it for something gets an answer all the same.
    assert_eq!(handle.counts(1), None);
    assert_eq!((handle.held(), handle.shed(0)), (0, 0));
    handle.unlisten(0);
    let ((player, client), (server, upstream)) = (pair(), pair());
    let session = Session::new(client.into(), upstream.into(), Vec::new());
    let late = Play {
        token: handle.adopt(session, ENDLESS, ()),
        player,
        server,
    };
    assert_broken_by(&end(handle).end, Trap::Engine);
    late.is_over();
    handle.stop();
    assert_eq!(handle.mishap(), Some(mishap));
}

#[test]
fn what_was_asked_for_and_not_done_yet_is_turned_away() {
    let handle = Handle::start(1 << 12).unwrap();
    let ((player, client), (server, upstream)) = (pair(), pair());
    let session = Session::new(client.into(), upstream.into(), Vec::new());
    let in_one_turn = [
        Command::Trap(Trap::Engine),
        Command::Start(7, session, ENDLESS, None, ()),
    ];
    let mut commands = lock(&handle.shared.commands);
    commands.as_mut().unwrap().extend(in_one_turn);
    drop(commands);
    signal(&handle.shared.wake);
    assert_broken_by(&end(&handle).end, Trap::Engine);
    assert!(until(|| handle.mishap()).contains("Engine"));
    Play {
        token: 7,
        player,
        server,
    }
    .is_over();
}

#[test]
fn a_panic_at_the_very_end_leaves_nothing_open() {
    let handle = Handle::start(1 << 12).unwrap();
    let plays: Vec<_> = (0..3).map(|_| Play::begin(&handle)).collect();
    handle.send(Command::Trap(Trap::WindUp));
    handle.stop();
    assert!(is_of(Trap::WindUp, &handle.mishap().unwrap()));
    assert!(is_readable(&handle));
    plays.iter().for_each(Play::is_over);
}

#[test]
fn a_panic_without_words_is_one_too() {
    watch_for_panics();
    let mishap = caught(|| std::panic::panic_any(7)).unwrap_err();
    assert!(
        mishap.starts_with("a panic (") && mishap.contains("tests.rs:"),
        "{mishap}"
    );
    let mishap = caught(|| panic!("fixed")).unwrap_err();
    assert!(mishap.starts_with("fixed ("), "{mishap}");
    let index = HELLO.len();
    let mishap = caught(|| HELLO[index]).unwrap_err();
    assert!(mishap.starts_with("index out of bounds"), "{mishap}");
    assert_eq!(caught(|| 7), Ok(7));
}
