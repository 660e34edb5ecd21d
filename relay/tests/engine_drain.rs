//! Drains that are asked for and taken back, with time moved by hand.

use _relay::deadlines::TICK;
use _relay::engine::{Handle, Times};
use _relay::session::End;

mod support;

use support::Dice;
use support::stage::{ENDLESS, LONG, Play, settle};

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
