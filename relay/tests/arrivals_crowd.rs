//! Hundreds who come at once and in every way, and nothing left behind.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Instant;

use _relay::engine::{Arrival, Handle, Played};
use _relay::session::{End, Side};
use _relay::tools::Tools;
use rustix::io::Errno;

mod support;

use support::front::{BUFFER, Deaf, Front, NAME, Server, Words, knock, nodes, nowhere, signed};
use support::stage::{ENDLESS, alone, engines, nothing_is_left, open_files};
use support::{Dice, PATIENCE, Peer, until};

const ALL: usize = 800;
const AT_ONCE: usize = 60;
const NODES: usize = 4;
const NO_NODE: usize = 2; // its place among them

/// What somebody asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Asks {
    Planned,
    Unknown,
    Refused,
    Nonsense,
}

/// One who comes.
struct Player {
    peer: Option<Peer>, // None: it has reset
    asks: Asks,
    words: Vec<u8>,
    cuts: Vec<usize>, // the last one is the end of the words
    resets: Option<usize>,
    ended: bool,
}

impl Player {
    fn come(front: &Front, dice: &mut Dice) -> Self {
        let asks = dice.of(&[
            Asks::Planned,
            Asks::Planned,
            Asks::Unknown,
            Asks::Refused,
            Asks::Nonsense,
        ]);
        let name = match asks {
            Asks::Refused => "nowhere.example.com",
            Asks::Unknown => "unknown.example.com",
            Asks::Planned | Asks::Nonsense => NAME,
        };
        let random = dice.bytes(32).try_into().unwrap();
        let mut words = signed(name, dice.size(800), &random);
        if asks == Asks::Nonsense {
            words[1] = 7;
        }
        let behind = dice.of(&[0, 1, 1000, 20_000]);
        words.extend(dice.bytes(behind));
        let resets = dice.hit(4).then(|| dice.size(words.len() + 1));
        let limit = words.len().min(dice.of(&[100, 900, usize::MAX]));
        let cuts = dice.below(4);
        let mut cuts: Vec<_> = (0..cuts).map(|_| dice.size(limit)).collect();
        cuts.push(words.len());
        cuts.sort_unstable_by(|one, other| other.cmp(one));
        let peer = Some(knock(front.address));
        Self {
            peer,
            asks,
            words,
            cuts,
            resets,
            ended: false,
        }
    }

    /// Says some, up to the next cut; hears what there is. Whether it is over.
    fn act(&mut self, dice: &mut Dice) -> bool {
        let Some(peer) = &mut self.peer else {
            return true;
        };
        let said = peer.said.len();
        if self.resets.is_some_and(|after| said >= after) {
            self.peer.take().unwrap().reset();
            return true;
        }
        match self.cuts.last() {
            Some(&cut) if !dice.hit(3) => {
                peer.say(&self.words[said..cut.max(said)]);
                if peer.said.len() >= cut {
                    self.cuts.pop();
                }
            }
            None if !self.ended => {
                peer.end();
                self.ended = true;
            }
            _ => {}
        }
        peer.hear(1 << 16);
        peer.told || peer.failed.is_some()
    }
}

/// One who has come to a game server, or was handed over: says back what it hears, and ends after the other.
struct Echo {
    peer: Peer,
    ended: bool,
}

impl Echo {
    fn of(peer: Peer) -> Self {
        Self { peer, ended: false }
    }

    /// Whether it is over.
    fn act(&mut self) -> bool {
        if self.peer.failed.is_none() && !self.peer.told {
            self.peer.hear(1 << 16);
        }
        let said = self.peer.said.len();
        if said < self.peer.heard.len() {
            let rest = self.peer.heard[said..].to_vec();
            self.peer.say(&rest);
        } else if self.peer.told && !self.ended {
            self.peer.end();
            self.ended = true;
        }
        self.ended || self.peer.failed.is_some()
    }
}

/// Who was handed over, and how.
struct Given {
    failure: Option<Errno>,
    node: Option<usize>,
    echo: Echo,
}

impl Given {
    fn of(arrival: Arrival<usize>) -> Self {
        let node = arrival.tried.map(|tried| {
            let error = tried.outcome.err().unwrap_or(Errno::INPROGRESS);
            // Slow is everything in a process that has to wait for its turn.
            assert!([Errno::CONNREFUSED, Errno::INPROGRESS].contains(&error));
            tried.node
        });
        let mut peer = Peer::at(arrival.socket);
        peer.heard = arrival.said;
        Self {
            failure: arrival.failure,
            node,
            echo: Echo::of(peer),
        }
    }
}

/// All that there is of them.
#[derive(Default)]
struct Crowd {
    playing: Vec<(SocketAddr, Player)>,
    over: HashMap<SocketAddr, Player>,
    given: HashMap<SocketAddr, Given>,
    played: HashMap<SocketAddr, Played<usize>>,
    echoes: Vec<Echo>,
}

impl Crowd {
    fn act(&mut self, front: &Front, servers: &[Server], dice: &mut Dice) {
        for index in (0..self.playing.len()).rev() {
            if self.playing[index].1.act(dice) {
                let (address, player) = self.playing.swap_remove(index);
                self.over.insert(address, player);
            }
        }
        for server in servers {
            self.echoes.extend(server.guest().map(Echo::of));
        }
        for arrival in front.handle.arrivals() {
            let address = arrival.peer;
            let before = self.given.insert(address, Given::of(arrival));
            assert!(before.is_none(), "handed over twice");
        }
        for played in front.handle.played() {
            let before = self.played.insert(played.peer, played);
            assert!(before.is_none(), "ended twice");
        }
        for echo in &mut self.echoes {
            echo.act();
        }
        for given in self.given.values_mut() {
            given.echo.act();
        }
    }

    fn is_over(&self) -> bool {
        let ends = self.given.len() + self.played.len();
        let given = self.given.values();
        let heard = given.map(|one| &one.echo).chain(&self.echoes);
        ends == ALL
            && self.playing.is_empty()
            && heard
                .into_iter()
                .all(|echo| echo.ended || echo.peer.failed.is_some())
    }

    fn check(mut self) {
        assert_eq!(self.over.len(), ALL);
        let played = self.played.len();
        for (address, player) in &self.over {
            match (self.given.remove(address), self.played.remove(address)) {
                (Some(given), None) => check_given(player, &given),
                (None, Some(end)) => check_played(player, &end, &mut self.echoes),
                _ => panic!("neither handed over nor played, or both"),
            }
        }
        // Who was reset before it said anything may not have come to be accepted by its server.
        assert!(self.echoes.iter().all(|echo| echo.peer.heard.is_empty()));
        assert!(played > ALL / 5, "{played} played");
    }
}

fn check_given(player: &Player, given: &Given) {
    let heard = &given.echo.peer.heard;
    assert!(player.words.starts_with(heard), "not what was said");
    if player.resets.is_none() {
        assert_eq!(given.failure, None);
        assert!(*heard == player.words, "not all that was said");
        assert!(
            player.peer.as_ref().unwrap().heard == player.words,
            "no echo"
        );
    }
    if given.node.is_some() {
        assert!([Asks::Planned, Asks::Refused].contains(&player.asks));
    }
}

fn check_played(player: &Player, end: &Played<usize>, echoes: &mut Vec<Echo>) {
    assert_eq!((player.asks, end.plan.owner), (Asks::Planned, 0));
    assert_ne!(end.node, NO_NODE);
    let mine = echoes.iter().position(|echo| {
        let heard = &echo.peer.heard;
        heard.len() > 43 && heard[..43] == player.words[..43]
    });
    if player.resets.is_none() {
        assert_eq!(end.end, End::Closed(Side::Client));
        let all = player.words.len() as u64;
        assert_eq!((end.to_upstream, end.to_client), (all, all));
        assert!(
            player.peer.as_ref().unwrap().heard == player.words,
            "no echo"
        );
    } else {
        assert!(
            matches!(end.end, End::Lost(Side::Client, _)),
            "{:?}",
            end.end
        );
    }
    if let Some(index) = mine {
        let echo = echoes.swap_remove(index);
        assert!(
            player.words.starts_with(&echo.peer.heard),
            "not what was said"
        );
        assert!(player.resets.is_some() || echo.peer.heard == player.words);
        assert!(echo.peer.heard.len() as u64 <= end.to_upstream);
    } else {
        assert!(player.resets.is_some(), "it came to no server");
    }
}

#[test]
fn hundreds_come_and_each_is_played_or_handed_over_once() {
    let _turn = alone(&[]);
    let before = open_files();
    for seed in 0..3 {
        let servers = [Server::open(), Server::open(), Server::open()];
        let [one, two, three] = [0, 1, 2].map(|index| servers[index].address);
        let words = Words::new();
        let front =
            Front::of(Handle::start_with(Tools::new(BUFFER, 0), words.places(0, 1 << 20)).unwrap());
        let addresses: [_; NODES] = [one, two, nowhere(), three];
        front.learn(NAME, &nodes(&addresses), ENDLESS, 0);
        front.learn("nowhere.example.com", &nodes(&[nowhere()]), ENDLESS, 1);
        let (mut dice, mut crowd, mut came) = (Dice::new(seed), Crowd::default(), 0);
        let (began, mut now) = (Instant::now(), 0);
        while came < ALL || !crowd.is_over() {
            while came < ALL && crowd.playing.len() < AT_ONCE {
                let player = Player::come(&front, &mut dice);
                let address = player.peer.as_ref().unwrap().address();
                crowd.playing.push((address, player));
                came += 1;
            }
            if dice.hit(10) {
                now += 500;
                front.handle.tick(now);
            }
            crowd.act(&front, &servers, &mut dice);
            let what = (crowd.playing.len(), crowd.given.len(), crowd.played.len());
            assert!(began.elapsed() < 5 * PATIENCE, "never over: {what:?}");
        }
        crowd.check();
        assert_eq!(front.handle.accepted(), ALL as u64);
        front.nothing_happened();
        assert_eq!(words.read(), [0, 0]);
        drop((front, servers));
        nothing_is_left(before);
    }
}

#[test]
fn stop_gives_everybody_back_once_and_closes_all_else() {
    let _turn = alone(&[]);
    let before = open_files();
    let (server, deaf, words) = (Server::open(), Deaf::open(), Words::new());
    let front = Front::of(Handle::start_with(Tools::new(BUFFER, 0), words.places(0, 99)).unwrap());
    front.learn(NAME, &nodes(&[server.address]), ENDLESS, 0);
    front.learn("deaf.example.com", &nodes(&[deaf.address]), ENDLESS, 1);
    let [plays, connects] = [NAME, "deaf.example.com"].map(|name| signed(name, 0, &[9; 32]));
    let half = &plays[..30];
    let (mut players, mut games, mut expected) = (Vec::new(), Vec::new(), HashMap::new());
    for _ in 0..10 {
        for (said, owner) in [(&plays[..], Some(0)), (&connects, Some(1)), (half, None)] {
            let player = front.knock(said);
            if owner == Some(0) {
                games.push(server.welcome(said));
            }
            expected.insert(player.address(), owner);
            players.push(player);
        }
    }
    assert_eq!(words.read(), [30, 0]);
    front.handle.stop();
    until("the thread's end", || engines() == 0);
    let (played, arrivals) = (front.handle.played(), front.handle.arrivals());
    assert_eq!((played.len(), arrivals.len()), (20, 10));
    assert_eq!(words.read(), [0, 0]);
    for one in &played {
        assert_eq!(one.end, End::Stopped);
        assert_eq!(expected.remove(&one.peer), Some(Some(one.plan.owner)));
        let has_played = one.plan.owner == 0;
        assert_eq!(one.connect_took.is_some(), has_played);
        let said = if has_played { plays.len() as u64 } else { 0 };
        assert_eq!((one.to_upstream, one.to_client), (said, 0));
    }
    for arrival in &arrivals {
        assert_eq!(expected.remove(&arrival.peer), Some(None));
        assert!(arrival.said == half && arrival.tried.is_none() && arrival.failure.is_none());
    }
    for game in &mut games {
        game.farewell();
    }
    front.handle.stop();
    front.nothing_happened();
    let given: Vec<OwnedFd> = arrivals.into_iter().map(|one| one.socket).collect();
    drop((players, games, given, server, deaf));
    assert_eq!(open_files(), before + 5, "the eventfds");
    drop(front);
    nothing_is_left(before);
}

/// In whatever state it is found.
#[test]
fn stop_may_come_at_any_time() {
    let _turn = alone(&[]);
    let before = open_files();
    for seed in 0..60 {
        let mut dice = Dice::new(seed);
        let (server, words) = (Server::open(), Words::new());
        let front =
            Front::of(Handle::start_with(Tools::new(BUFFER, 0), words.places(0, 9)).unwrap());
        front.learn(NAME, &nodes(&[server.address, nowhere()]), ENDLESS, 0);
        let mut players: Vec<_> = (0..30).map(|_| Player::come(&front, &mut dice)).collect();
        for _ in 0..dice.below(60) {
            let index = dice.size(players.len());
            players[index].act(&mut dice);
        }
        front.handle.stop();
        let (played, arrivals) = (front.handle.played(), front.handle.arrivals());
        let (accepted, ends) = (front.handle.accepted(), played.len() + arrivals.len());
        assert_eq!(accepted, ends as u64);
        assert_eq!(words.read(), [0, 0]);
        front.nothing_happened();
        drop((front, players, arrivals, server));
        nothing_is_left(before);
    }
}
