//! A cap on bandwidth, and sessions that are told to end by a time.

use std::time::{Duration, Instant};

use _relay::engine::{Handle, Times};
use _relay::places::Places;
use _relay::session::End;
use _relay::tools::Tools;

mod support;

use support::stage::{ENDLESS, Play, ends, settle};
use support::{Dice, until};

const BUFFER: usize = 1 << 16;

/// An engine with pipes, that has lived for a while.
fn engine() -> Handle {
    let handle = Handle::start_with(Tools::new(BUFFER, 4), Places::alone(u64::MAX)).unwrap();
    handle.tick(1000);
    handle
}

#[test]
fn each_direction_keeps_to_the_cap_and_brings_every_byte() {
    let handle = engine();
    let times = Times {
        bandwidth: Some(2_000_000),
        ..ENDLESS
    };
    let mut play = Play::begin(&handle, times, None);
    let (up, down) = (Dice::new(1).bytes(700_000), Dice::new(2).bytes(1_200_000));
    let began = Instant::now();
    let mut took = [Duration::ZERO; 2];
    until("all of it there", || {
        let Play { player, server, .. } = &mut play;
        player.say(&up[player.said.len()..]);
        server.say(&down[server.said.len()..]);
        for (index, (peer, size)) in [(server, up.len()), (player, down.len())]
            .into_iter()
            .enumerate()
        {
            peer.hear(1 << 20);
            let elapsed = began.elapsed();
            // A tenth of a second goes at once.
            let most = 2 * elapsed.as_micros() + 200_001;
            assert!(
                peer.heard.len() as u128 <= most,
                "{} by {elapsed:?}",
                peer.heard.len()
            );
            if peer.heard.len() == size && took[index].is_zero() {
                took[index] = elapsed;
            }
        }
        took.iter().all(|one| !one.is_zero())
    });
    assert!(play.server.heard == up && play.player.heard == down);
    assert!(took[0] >= Duration::from_millis(240), "{took:?}");
    assert!(took[1] >= Duration::from_millis(490), "{took:?}");
}

#[test]
fn a_capped_session_takes_nothing_from_others_and_ends_as_they_do() {
    let handle = engine();
    let capped = Times {
        bandwidth: Some(1000),
        ..ENDLESS
    };
    let mut slow = Play::begin(&handle, capped, None);
    let mut free = Play::begin(&handle, ENDLESS, None);
    slow.player.say(&vec![7; 100_000]);
    for _ in 0..50 {
        free.ask();
        free.answer();
    }
    until("the burst", || {
        slow.server.hear(1 << 16);
        slow.server.heard.len() >= 100
    });
    assert!(slow.server.heard.len() < 50_000);
    slow.answer();
    handle.kill(slow.token);
    let end = ends(&handle, 1)[&slow.token].clone();
    assert_eq!(end.end, End::Killed);
    assert!(end.to_upstream < 50_000);
    free.ask();
}

#[test]
fn the_end_of_a_capped_side_comes_after_its_bytes() {
    let handle = engine();
    let times = Times {
        bandwidth: Some(1_000_000),
        ..ENDLESS
    };
    let mut play = Play::begin(&handle, times, None);
    let words = Dice::new(3).bytes(250_000);
    until("it is said", || {
        let said = play.player.said.len();
        play.player.say(&words[said..]);
        play.player.said.len() == words.len()
    });
    play.player.end();
    until("the end", || {
        play.server.hear(1 << 16);
        play.server.told
    });
    assert!(play.server.heard == words);
}

#[test]
fn those_who_play_when_it_is_drained_end_one_after_another() {
    let handle = engine();
    let mut plays: Vec<_> = (0..10)
        .map(|_| Play::begin(&handle, ENDLESS, None))
        .collect();
    settle(&handle);
    handle.tick(2000);
    plays.push(Play::begin(&handle, ENDLESS, None)); // which no tick has dated yet
    settle(&handle);
    handle.drain(10_000, 10_000);
    settle(&handle);
    let mut late = Play::begin(&handle, ENDLESS, None);
    let leaver = plays.remove(4);
    leaver.player.end();
    leaver.server.end();
    ends(&handle, 1);
    let mut alive = 10;
    for now in (2500..=24_000).step_by(500) {
        handle.tick(now);
        settle(&handle);
        let ended = handle.ended();
        assert!(ended.iter().all(|one| one.end == End::Drained), "{ended:?}");
        assert!(ended.len() <= 1 || now < 12_500, "{} at once", ended.len());
        assert!(ended.is_empty() || now >= 12_000, "at {now}");
        alive -= ended.len();
    }
    assert_eq!(alive, 0);
    late.ask();
}

#[test]
fn whoever_would_end_sooner_does() {
    let handle = engine();
    let short = Times {
        session: Some(3000),
        ..ENDLESS
    };
    let idle = Times {
        idle: 3000,
        ..ENDLESS
    };
    let new = Play::begin(&handle, short, None); // which no tick has dated yet
    settle(&handle);
    handle.drain(5000, 0);
    handle.tick(1500);
    let dated = Play::begin(&handle, short, None);
    let quiet = Play::begin(&handle, idle, None);
    settle(&handle);
    handle.tick(2000);
    settle(&handle);
    handle.drain(60_000, 1_000_000);
    for now in (2500..8000).step_by(500) {
        handle.tick(now);
    }
    settle(&handle);
    let found = ends(&handle, 3);
    assert_eq!(found[&new.token].end, End::TimeUp);
    assert_eq!(found[&dated.token].end, End::TimeUp);
    assert_eq!(found[&quiet.token].end, End::Idle);
}
