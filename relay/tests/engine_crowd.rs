//! Thousands of sessions in one engine, all kinds of schedule and of end, and nothing left behind.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use _relay::engine::{Ended, Handle};
use _relay::session::{End, Session, Side};

mod support;

use support::stage::{ENDLESS, Play, alone, ends, engines, nothing_is_left, open_files};
use support::{Dice, PATIENCE, Peer, pair, until};

const BUFFER: usize = 1 << 16;
const KERNEL_BUFFERS: [Option<usize>; 3] = [None, Some(4096), Some(16_384)];
const DRIVERS: u64 = 2;
const AT_ONCE: usize = 500; // per driver, where so many descriptors may be open
const EACH: usize = 1500; // per driver

/// How a session is to end.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Plan {
    /// Both sides say all they have, and end.
    Gently,
    /// A side resets after that many bytes.
    Reset(Side, usize),
    /// Somebody asks for it after the client has said that many bytes.
    Kill(usize),
}

/// One who plays.
struct Actor {
    peer: Option<Peer>,
    words: Vec<u8>,
    ended: bool,
}

impl Actor {
    fn new(peer: Peer, words: Vec<u8>) -> Self {
        Self {
            peer: Some(peer),
            words,
            ended: false,
        }
    }

    /// Says some, hears some. Who has a limit does not end.
    fn act(&mut self, dice: &mut Dice, limit: usize) {
        let Some(peer) = &mut self.peer else { return };
        let said = peer.said.len();
        if !dice.hit(3) && peer.failed.is_none() {
            let rest = &self.words[said..limit.min(self.words.len())];
            if !rest.is_empty() {
                peer.say(&rest[..dice.of(&[1, 1000, 30_000]).min(rest.len())]);
            } else if said == self.words.len() && limit == usize::MAX && !self.ended {
                peer.end();
                self.ended = true;
            }
        }
        if !dice.hit(3) && !peer.told {
            peer.hear(dice.of(&[100, 5000, 30_000]));
        }
    }

    fn said(&self) -> usize {
        self.peer
            .as_ref()
            .map_or(usize::MAX, |peer| peer.said.len())
    }

    /// It has heard all that it will hear.
    fn finished(&self) -> bool {
        self.peer
            .as_ref()
            .is_none_or(|peer| peer.told || peer.failed.is_some())
    }
}

/// One session's schedule.
struct Scene {
    actors: [Actor; 2],
    first: Vec<u8>,
    plan: Plan,
    dice: Dice,
    killed: bool,
}

impl Scene {
    fn begin(handle: &Handle, seed: u64) -> (u64, Self) {
        let mut dice = Dice::new(seed);
        let kernel_buffer = dice.of(&KERNEL_BUFFERS);
        let (player, client) = pair(kernel_buffer);
        let (server, upstream) = pair(kernel_buffer);
        let size = dice.of(&[0, 0, 1, 20_000]);
        let first = dice.bytes(size);
        let words = [0, 1].map(|_| {
            let size = dice.of(&[0, 1, 2000, 40_000]);
            dice.bytes(size)
        });
        let leaving = dice.of(&[Side::Client, Side::Upstream]);
        let reset_after = dice.size(words[leaving as usize].len() + 1);
        let kill_after = dice.size(words[0].len() + 1);
        let plan = match dice.below(4) {
            0 | 1 => Plan::Gently,
            2 => Plan::Reset(leaving, reset_after),
            _ => Plan::Kill(kill_after),
        };
        let token = handle.adopt(Session::new(client, upstream, first.clone()), ENDLESS, ());
        let [up, down] = words;
        let actors = [Actor::new(player, up), Actor::new(server, down)];
        let scene = Self {
            actors,
            first,
            plan,
            dice,
            killed: false,
        };
        (token, scene)
    }

    /// One step; whether it is over for both.
    fn act(&mut self, handle: &Handle, token: u64) -> bool {
        let mut limits = [usize::MAX; 2];
        match self.plan {
            Plan::Gently => {}
            Plan::Reset(side, after) => {
                limits[side as usize] = after;
                let actor = &mut self.actors[side as usize];
                if actor.said() == after && !actor.ended {
                    actor.peer.take().unwrap().reset();
                }
            }
            Plan::Kill(after) => {
                limits[0] = after;
                if self.actors[0].said() == after && !self.actors[0].ended && !self.killed {
                    handle.kill(token);
                    self.killed = true;
                }
            }
        }
        for (actor, limit) in self.actors.iter_mut().zip(limits) {
            actor.act(&mut self.dice, limit);
        }
        self.actors.iter().all(Actor::finished)
    }

    /// Both have left.
    fn story(self) -> Story {
        let [player, server] = self.actors;
        let heard = |peer: Option<Peer>| peer.map(|Peer { heard, failed, .. }| (heard, failed));
        Story {
            plan: self.plan,
            sent: [[self.first, player.words].concat(), server.words],
            heard: [heard(server.peer), heard(player.peer)],
        }
    }
}

/// What is left of a scene: to the upstream and to the client.
struct Story {
    plan: Plan,
    sent: [Vec<u8>; 2],
    /// None: nobody was left to hear it.
    heard: [Option<(Vec<u8>, Option<ErrorKind>)>; 2],
}

impl Story {
    /// Compares what came with what was said.
    fn check(&self, end: &Ended) {
        let counts = [end.to_upstream, end.to_client];
        for ((sent, heard), count) in self.sent.iter().zip(&self.heard).zip(counts) {
            let Some((heard, failed)) = heard else {
                continue;
            };
            assert!(sent.starts_with(heard), "not what was said");
            if self.plan == Plan::Gently {
                assert_eq!((heard.len(), count), (sent.len(), sent.len() as u64));
            } else {
                assert!(heard.len() as u64 <= count && count <= sent.len() as u64);
            }
            if let Plan::Reset(side, _) = self.plan {
                let reset = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
                let told = failed.is_some_and(|failed| reset.contains(&failed));
                assert!(told, "{side:?} was reset, and nobody was told");
            }
        }
        match (self.plan, end.end.clone()) {
            (Plan::Gently, End::Closed(_)) | (Plan::Kill(_), End::Killed) => {}
            (Plan::Reset(side, _), End::Lost(lost, _)) => assert_eq!(side, lost),
            (plan, end) => panic!("{plan:?} ended as {end:?}"),
        }
    }
}

/// How many sessions a driver may have at once; each needs four descriptors.
fn at_once() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let files = line.and_then(|line| line.split_whitespace().nth(3)?.parse().ok());
    let all = (files.unwrap_or(1024_usize) - 100) / 4;
    AT_ONCE.min(all / usize::try_from(DRIVERS).unwrap())
}

/// Plays scenes, some hundreds at a time.
fn drive(handle: &Handle, driver: u64, over: &Mutex<HashMap<u64, Story>>) {
    let mut seeds = (0..EACH as u64).map(|number| number * DRIVERS + driver);
    let mut playing = Vec::new();
    let (began, at_once) = (Instant::now(), at_once());
    loop {
        while playing.len() < at_once {
            let Some(seed) = seeds.next() else { break };
            playing.push(Scene::begin(handle, seed));
        }
        if playing.is_empty() {
            return;
        }
        for index in (0..playing.len()).rev() {
            let (token, scene) = &mut playing[index];
            if scene.act(handle, *token) {
                let (token, scene) = playing.swap_remove(index);
                over.lock().unwrap().insert(token, scene.story());
            }
        }
        assert!(
            began.elapsed() < 5 * PATIENCE,
            "{} never ended",
            playing.len()
        );
    }
}

#[test]
fn thousands_of_sessions_each_end_as_they_must_and_nothing_is_left() {
    let _turn = alone(&KERNEL_BUFFERS);
    let before = open_files();
    let handle = Handle::start(BUFFER).unwrap();
    let stories = Mutex::new(HashMap::new());
    let all = EACH * usize::try_from(DRIVERS).unwrap();
    let mut found = HashMap::new();
    std::thread::scope(|scope| {
        for driver in 0..DRIVERS {
            let (handle, stories) = (&handle, &stories);
            scope.spawn(move || drive(handle, driver, stories));
        }
        let mut now = 0;
        let began = Instant::now();
        while found.len() < all && began.elapsed() < 5 * PATIENCE {
            now += 1;
            handle.tick(now);
            handle.counts(now);
            for end in handle.ended() {
                assert_eq!(found.insert(end.token, end), None, "ended twice");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let stories = stories.into_inner().unwrap();
    assert_eq!((stories.len(), found.len()), (all, all));
    for (token, story) in &stories {
        story.check(&found[token]);
    }
    drop(stories);
    handle.stop();
    assert!(handle.ended().is_empty());
    drop(handle);
    nothing_is_left(before);
}

#[test]
fn a_handle_that_is_dropped_takes_its_sessions_and_its_thread_with_it() {
    let _turn = alone(&KERNEL_BUFFERS);
    let before = open_files();
    for _ in 0..10 {
        let handle = Handle::start(BUFFER).unwrap();
        let mut plays: Vec<_> = (0..50)
            .map(|_| Play::begin(&handle, ENDLESS, None))
            .collect();
        plays[0].ask();
        drop(handle);
        for play in &mut plays {
            for peer in [&mut play.player, &mut play.server] {
                until("farewell", || {
                    peer.hear(1);
                    peer.told
                });
            }
        }
        drop(plays);
        nothing_is_left(before);
    }
}

#[test]
fn stop_closes_every_descriptor_but_those_of_the_handle() {
    let _turn = alone(&KERNEL_BUFFERS);
    let before = open_files();
    let handle = Handle::start(BUFFER).unwrap();
    let plays: Vec<_> = (0..150)
        .map(|_| Play::begin(&handle, ENDLESS, None))
        .collect();
    handle.stop();
    until("the thread's end", || engines() == 0);
    assert_eq!(ends(&handle, 150).len(), 150);
    drop(plays);
    assert_eq!(open_files(), before + 5); // the eventfds
    drop(handle);
    assert_eq!(open_files(), before);
}
