//! Drains that are asked for and taken back, with time moved by hand; and what comes of an engine that was stopped.

use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use _relay::deadlines::TICK;
use _relay::engine::{Handle, Times};
use _relay::session::End;

mod support;

use support::stage::{ENDLESS, LONG, Play, ends, settle};
use support::{Dice, until};

const BUFFER: usize = 1 << 16;
const LATE: u64 = 2000; // milliseconds by which an end may come later than set

/// A session as it must be: when it ends by the drain, and when by itself.
struct Clock {
    play: Play,
    began: u64,
    lasts: Option<u64>,
    /// The soonest and the latest end that a drain may have given it: its turn among all is the engine's to say.
    drains: Option<(u64, u64)>,
}

impl Clock {
    fn ends_by_itself(&self) -> u64 {
        self.lasts.map_or(LONG, |lasts| self.began + lasts)
    }

    fn latest(&self) -> u64 {
        let drains = self.drains.map_or(LONG, |(_, latest)| latest);
        self.ends_by_itself().min(drains)
    }

    fn check(&self, end: End, now: u64) {
        match end {
            End::TimeUp => assert!(self.ends_by_itself() <= now),
            End::Drained => assert!(self.drains.expect("it was taken back").0 <= now),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn each_ends_by_the_soonest_drain_that_was_not_taken_back_or_by_itself() {
    for seed in 0..30 {
        let mut dice = Dice::new(seed);
        let mut now = dice.below(100_000);
        let handle = Handle::start(1 << 12).unwrap();
        handle.tick(now);
        let mut clocks = Vec::<Clock>::new();
        for _ in 0..200 {
            now += dice.below(TICK + 1);
            handle.tick(now);
            settle(&handle);
            for end in handle.ended() {
                let found = clocks.iter().position(|one| one.play.token == end.token);
                clocks.swap_remove(found.unwrap()).check(end.end, now);
            }
            for clock in &clocks {
                assert!(now < clock.latest().saturating_add(LATE), "forgotten");
            }
            if clocks.len() < 10 {
                let lasts = dice.of(&[None, Some(1), Some(3333), Some(20_000)]);
                let times = Times {
                    session: lasts,
                    ..ENDLESS
                };
                clocks.push(Clock {
                    play: Play::begin(&handle, times, None),
                    began: now,
                    lasts,
                    drains: None,
                });
            }
            if dice.hit(10) {
                let (after, spread) = (dice.of(&[0, 700, 4000, 30_000]), dice.below(5000));
                handle.drain(after, spread);
                for clock in &mut clocks {
                    let (soonest, latest) = clock.drains.unwrap_or((LONG, LONG));
                    let from = now + after;
                    clock.drains = Some((soonest.min(from), latest.min(from + spread)));
                }
            }
            if dice.hit(20) {
                handle.undrain();
                for clock in &mut clocks {
                    clock.drains = None;
                }
            }
        }
    }
}

#[test]
fn counts_of_a_stopped_engine_are_none() {
    let handle = Handle::start(BUFFER).unwrap();
    let play = Play::begin(&handle, ENDLESS, None);
    handle.stop();
    assert_eq!(ends(&handle, 1).len(), 1); // until it is taken it has its counts
    let (sender, receiver) = channel();
    thread::spawn(move || sender.send(handle.counts(play.token)));
    assert_eq!(receiver.recv_timeout(Duration::from_secs(5)), Ok(None));
}

#[test]
fn a_session_handed_to_a_stopped_engine_ends_at_once() {
    let handle = Handle::start(BUFFER).unwrap();
    handle.stop();
    let mut play = Play::begin(&handle, ENDLESS, None);
    let end = ends(&handle, 1)[&play.token].clone();
    assert_eq!(
        (end.end, end.to_upstream, end.to_client),
        (End::Stopped, 0, 0)
    );
    until("farewell", || {
        play.player.hear(1);
        play.player.told
    });
}
