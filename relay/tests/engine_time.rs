//! The engine's three timeouts, with time moved by hand.

use _relay::deadlines::TICK;
use _relay::engine::{Ended, Handle, Times};
use _relay::session::{End, Side};

mod support;

use std::sync::mpsc::channel;
use std::time::Duration;

use support::Dice;
use support::stage::{ENDLESS, LONG, Play, ends, pass, pass_the_end, settle};

const BUFFER: usize = 1 << 16;
const LATE: u64 = 2000; // milliseconds by which a timeout may come later than set

/// Times, of which only `idle` is near.
const fn idle(idle: u64) -> Times {
    Times { idle, ..ENDLESS }
}

/// An engine that has lived for a while.
fn engine(now: u64) -> Handle {
    let handle = Handle::start(BUFFER).unwrap();
    handle.tick(now);
    handle
}

/// Seven ticks, each of which the engine has heard before the next thing happens.
fn wait(handle: &Handle, now: &mut u64) {
    for _ in 0..7 {
        *now += TICK;
        handle.tick(*now);
    }
    settle(handle);
}

/// Ticks until a session ends; when that was, and how.
fn wind(handle: &Handle, now: &mut u64, step: u64) -> Ended {
    for _ in 0..10_000 {
        *now += step;
        handle.tick(*now);
        settle(handle);
        if let Some(end) = handle.ended().pop() {
            return end;
        }
    }
    panic!("it never ended");
}

#[test]
fn a_session_without_a_byte_ends_in_time() {
    for (timeout, step) in [
        (0, 1),
        (1, 500),
        (499, 7),
        (1000, 500),
        (1001, 499),
        (60_000, 500),
    ] {
        let began = 123_456;
        let (handle, mut now) = (engine(began), began);
        let play = Play::begin(&handle, idle(timeout), None);
        let end = wind(&handle, &mut now, step);
        assert_eq!((end.token, end.end), (play.token, End::Idle));
        let after = now - began;
        assert!(
            timeout <= after && after <= timeout + LATE,
            "{timeout}: {after}"
        );
    }
}

#[test]
fn bytes_either_way_put_it_off() {
    for from_player in [true, false] {
        let (handle, mut now) = (engine(0), 0);
        let mut play = Play::begin(&handle, idle(4000), None);
        for _ in 0..20 {
            wait(&handle, &mut now);
            if from_player {
                play.ask();
            } else {
                play.answer();
            }
        }
        let last = now;
        let end = wind(&handle, &mut now, TICK);
        assert_eq!(end.end, End::Idle);
        assert!(4000 <= now - last && now - last <= 4000 + LATE);
        assert_eq!(end.to_upstream + end.to_client, 20);
    }
}

#[test]
fn a_side_that_takes_nothing_is_idle_however_much_there_is_to_say() {
    let (handle, mut now) = (engine(0), 0);
    let mut play = Play::begin(&handle, idle(3000), Some(8192));
    let (words, mut quiet) = (vec![0; BUFFER], 0);
    while quiet < 10 {
        let took = play.server.say(&words);
        settle(&handle);
        quiet = if took == 0 { quiet + 1 } else { 0 };
    }
    let end = wind(&handle, &mut now, TICK);
    assert_eq!(end.end, End::Idle);
    assert!((3000..=3000 + LATE).contains(&now));
    assert!(end.to_client > 0);
}

#[test]
fn the_second_side_has_its_time_to_end_counted_from_the_last_byte() {
    for first in [Side::Client, Side::Upstream] {
        let (handle, mut now) = (engine(0), 0);
        let times = Times {
            half_close: 4000,
            ..ENDLESS
        };
        let play = Play::begin(&handle, times, None);
        for _ in 0..6 {
            wait(&handle, &mut now); // idle, which is another matter
        }
        let (one, mut other) = match first {
            Side::Client => (play.player, play.server),
            Side::Upstream => (play.server, play.player),
        };
        let mut one = one;
        pass_the_end(&one, &mut other);
        for _ in 0..3 {
            wait(&handle, &mut now);
            pass(&mut other, &mut one);
        }
        let last = now;
        let end = wind(&handle, &mut now, TICK);
        assert_eq!(end.end, End::NeverClosed(first));
        assert!(4000 <= now - last && now - last <= 4000 + LATE);
    }
}

#[test]
fn a_short_idle_timeout_holds_after_one_side_has_ended() {
    let (handle, mut now) = (engine(0), 0);
    let times = Times {
        idle: 2000,
        half_close: 60_000,
        session: None,
        ..ENDLESS
    };
    let mut play = Play::begin(&handle, times, None);
    pass_the_end(&play.player, &mut play.server);
    assert_eq!(
        wind(&handle, &mut now, TICK).end,
        End::NeverClosed(Side::Client)
    );
    assert!((2000..=2000 + LATE).contains(&now));
}

#[test]
fn a_session_lasts_no_longer_than_it_may_whatever_moves() {
    let (handle, mut now) = (engine(70_000), 70_000);
    let times = Times {
        session: Some(5000),
        ..ENDLESS
    };
    let mut play = Play::begin(&handle, times, None);
    while now < 70_000 + 4500 {
        play.ask();
        play.answer();
        now += TICK;
        handle.tick(now);
        settle(&handle);
    }
    assert_eq!(wind(&handle, &mut now, 100).end, End::TimeUp);
    assert!((75_000..=75_000 + LATE).contains(&now));
}

#[test]
fn times_without_an_end_are_none() {
    let handle = engine(0);
    let times = Times {
        idle: LONG,
        half_close: LONG,
        session: Some(u64::MAX),
        ..ENDLESS
    };
    let mut play = Play::begin(&handle, times, None);
    for now in [1, 500, 10_000, 1 << 39] {
        handle.tick(now);
        play.ask();
    }
    assert!(handle.ended().is_empty());
}

/// The engine's answer does not come from within the loop in which it files the same session again and again.
#[test]
fn an_idle_timeout_without_an_end_is_none() {
    let handle = engine(0);
    let play = Play::begin(&handle, idle(u64::MAX), None);
    handle.tick(10_000);
    let (sender, receiver) = channel();
    std::thread::spawn(move || sender.send(handle.counts(play.token)));
    assert_eq!(
        receiver.recv_timeout(Duration::from_secs(5)),
        Ok(Some((0, 0)))
    );
}

/// What moved since the tick before may have moved just now.
#[test]
fn a_tick_that_comes_late_ends_nobody_early() {
    let handle = engine(0);
    let mut play = Play::begin(&handle, idle(1000), None);
    handle.tick(500);
    settle(&handle); // what comes in the same turn may count as before it
    play.ask();
    handle.tick(4000); // the thread that ticks was busy for 3.5 seconds
    settle(&handle);
    assert!(handle.ended().is_empty());
    handle.tick(4900);
    settle(&handle);
    assert!(handle.ended().is_empty());
    handle.tick(5000);
    handle.tick(5500);
    assert_eq!(ends(&handle, 1)[&play.token].end, End::Idle);
}

/// What a test knows of a session's time.
struct Clock {
    play: Play,
    times: Times,
    began: u64,
    last: u64,
    first_end: Option<Side>,
}

impl Clock {
    fn idle(&self) -> u64 {
        match self.first_end {
            Some(_) => self.times.idle.min(self.times.half_close),
            None => self.times.idle,
        }
    }

    fn due(&self) -> u64 {
        let session = self
            .times
            .session
            .map_or(u64::MAX, |time| self.began + time);
        session.min(self.last + self.idle())
    }

    fn check(&self, end: &Ended, now: u64) {
        assert!(self.due() <= now && now <= self.due() + LATE);
        match end.end {
            End::TimeUp => assert!(self.began + self.times.session.unwrap() <= now),
            End::Idle => assert_eq!(self.first_end, None),
            ref other => assert_eq!(*other, End::NeverClosed(self.first_end.unwrap())),
        }
        if end.end != End::TimeUp {
            assert!(self.last + self.idle() <= now);
        }
    }
}

#[test]
fn none_ends_early_and_none_is_forgotten_whatever_moves_when() {
    for seed in 0..20 {
        let mut dice = Dice::new(seed);
        let mut now = dice.below(100_000);
        let handle = engine(now);
        let mut clocks = Vec::<Clock>::new();
        for _ in 0..200 {
            let before_the_tick = dice.below(TICK / 2 + 1);
            now += before_the_tick;
            if clocks.len() < 20 {
                let times = Times {
                    idle: dice.of(&[0, 1, 499, 500, 501, 1700, 3000, LONG]),
                    half_close: dice.of(&[1, 900, 2000, LONG]),
                    session: dice.of(&[None, Some(1), Some(3333), Some(20_000)]),
                    ..ENDLESS
                };
                let play = Play::begin(&handle, times, None);
                settle(&handle);
                clocks.push(Clock {
                    play,
                    times,
                    began: now,
                    last: now,
                    first_end: None,
                });
            }
            for _ in 0..dice.below(4) {
                let count = clocks.len();
                let clock = &mut clocks[dice.size(count)];
                match (dice.below(5), clock.first_end) {
                    (0, None) => {
                        pass_the_end(&clock.play.player, &mut clock.play.server);
                        clock.first_end = Some(Side::Client);
                    }
                    (1, None) => {
                        pass_the_end(&clock.play.server, &mut clock.play.player);
                        clock.first_end = Some(Side::Upstream);
                    }
                    (_, Some(Side::Client)) | (2, None) => clock.play.answer(),
                    _ => clock.play.ask(),
                }
                clock.last = now;
            }
            now += dice.below(TICK / 2 + 1);
            handle.tick(now);
            settle(&handle);
            for end in handle.ended() {
                let index = clocks
                    .iter()
                    .position(|clock| clock.play.token == end.token)
                    .unwrap();
                clocks.swap_remove(index).check(&end, now);
            }
            assert!(clocks.iter().all(|clock| now < clock.due() + LATE));
        }
    }
}
