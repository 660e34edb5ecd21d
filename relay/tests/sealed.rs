//! One session with TLS over real sockets: what goes in comes out, in order and counted in clear, and both ends are told.

use _relay::session::{Pumped, Side};

mod support;

use support::sealed::SealedTable;
use support::table::SIDES;
use support::{Dice, until};

const TLS12: Option<(bool, bool)> = Some((true, false));
const TLS13: Option<(bool, bool)> = Some((false, true));
/// TLS on the client's side, on the upstream's, on both.
const SEALED: [[Option<(bool, bool)>; 2]; 4] =
    [[TLS13, None], [None, TLS13], [TLS13, TLS12], [TLS12, TLS13]];

/// Both sides say what they have to, in pieces, and end; in any order, at any pace, through any buffers.
#[test]
fn any_schedule_brings_every_byte_in_order_and_both_ends() {
    for seed in 0..60 {
        play(seed);
    }
}

fn play(seed: u64) {
    let mut dice = Dice::new(seed);
    let kernel_buffer = dice.of(&[None, Some(4096), Some(20_000)]);
    let size = dice.of(&[0, 0, 1, 70_000]);
    let first = dice.bytes(size);
    let buffer_size = dice.of(&[100, 4096, 65_536]);
    let tls = SEALED[usize::try_from(seed % 4).unwrap()];
    let mut sealed = SealedTable::lay(kernel_buffer, buffer_size, &first, tls);
    sealed.table.share = dice.of(&[1, 5000, usize::MAX]);
    let words = [0, 1].map(|_| {
        let size = dice.of(&[0, 1, 3000, 50_000, 200_000]);
        dice.bytes(size)
    });
    let (mut said, mut ended) = ([0; 2], [false; 2]);
    let (mut counts, mut final_counts) = ((0, 0), None);
    until(&format!("the end of seed {seed}"), || {
        for side in SIDES {
            let index = side as usize;
            let wire = dice.of(&[1, 1500, 100_000]);
            if !dice.hit(3) && sealed.utter(side, wire) {
                let rest = &words[index][said[index]..];
                let count = dice.of(&[1, 1500, 100_000]).min(rest.len());
                if count > 0 {
                    sealed.say(side, &rest[..count]);
                    said[index] += count;
                } else if !ended[index] {
                    sealed.close(side);
                    if sealed.utter(side, usize::MAX) {
                        sealed.end(side);
                        ended[index] = true;
                    }
                }
            }
            if !dice.hit(3) && !sealed.is_told(side) {
                sealed.hear(side, dice.of(&[1, 1500, 100_000]));
            }
        }
        if final_counts.is_none() && !dice.hit(4) {
            let is_over = sealed.table.turn().unwrap();
            let now = sealed.table.session.counts();
            assert!(
                now.0 >= counts.0 && now.1 >= counts.1,
                "seed {seed}: they fell"
            );
            counts = now;
            let most = 4 * (buffer_size + size) + 300_000;
            assert!(sealed.table.session.held() <= most, "seed {seed}");
            if is_over {
                final_counts = Some(sealed.table.wind_up());
            }
        }
        final_counts.is_some() && SIDES.iter().all(|&side| sealed.is_told(side))
    });
    let up = [first, words[0].clone()].concat();
    assert!(sealed.heard(Side::Upstream) == up, "seed {seed}: upstream");
    assert!(
        sealed.heard(Side::Client) == words[1],
        "seed {seed}: client"
    );
    let sizes = (up.len() as u64, words[1].len() as u64);
    assert_eq!(final_counts, Some(sizes), "seed {seed}");
}

#[test]
fn after_one_goodbye_bytes_go_on_the_other_way() {
    for tls in SEALED {
        for first in SIDES {
            let second = first.other();
            let mut sealed = SealedTable::lay(None, 4096, b"", tls);
            sealed.say(first, b"last words");
            sealed.close(first);
            if tls[first as usize].is_none() {
                sealed.end(first); // with TLS its socket stays open: the goodbye is enough
            }
            sealed.until("the end", |sealed| sealed.is_told(second));
            assert_eq!(sealed.heard(second), b"last words");
            for count in 1..20 {
                sealed.say(second, b"answer");
                sealed.until("an answer", |sealed| sealed.heard(first).len() == 6 * count);
            }
            assert!(!sealed.table.session.is_over());
            sealed.close(second);
            sealed.end(second);
            sealed.until("the other end", |sealed| sealed.table.session.is_over());
            let end = sealed.table.session.gentle_end();
            assert_eq!(end, _relay::session::End::Closed(first));
            sealed.table.wind_up();
            until("the end", || {
                sealed.hear(first, 100);
                sealed.is_told(first)
            });
        }
    }
}

#[test]
fn no_more_goes_in_a_turn_than_the_cap_allows_and_all_of_it_in_the_end() {
    for tls in SEALED {
        for from in SIDES {
            let to = from.other();
            let words = Dice::new(1).bytes(60_000);
            let mut sealed = SealedTable::lay(None, 4096, b"", tls);
            sealed.say(from, &words);
            let (mut before, mut dice) = ((0, 0), Dice::new(2));
            until("all of it", || {
                let cap = dice.of(&[0, 1, 777, 10_000]);
                sealed.utter(from, usize::MAX);
                sealed.table.listen();
                let table = &mut sealed.table;
                let went = table.session.pump(from, &mut table.tools, usize::MAX, cap);
                let moved = table.session.moved_since(from, before);
                assert!(moved <= cap as u64, "{moved} of {cap}");
                if moved == cap as u64 && cap < 10_000 {
                    assert!(matches!(went, Ok(Pumped::Capped | Pumped::Waits)));
                }
                before = table.session.counts();
                sealed.hear(to, 1 << 16);
                sealed.heard(to).len() == words.len()
            });
            assert!(sealed.heard(to) == words);
        }
    }
}

#[test]
fn nothing_more_is_read_for_a_side_that_takes_nothing() {
    for tls in SEALED {
        for from in SIDES {
            let to = from.other();
            let mut sealed = SealedTable::lay(Some(8192), 4096, b"", tls);
            let words = Dice::new(3).bytes(400_000);
            sealed.say(from, &words);
            for _ in 0..200 {
                sealed.utter(from, usize::MAX);
                sealed.table.turn().unwrap();
            }
            let held = sealed.table.session.held();
            assert!(held < 3 * (4096 + 17_000), "{held}");
            let (up, down) = sealed.table.session.counts();
            assert!(up + down < 200_000);
            // The other direction lives.
            sealed.say(to, b"still there");
            until("the other way", || {
                sealed.table.turn().unwrap();
                sealed.hear(from, 100);
                sealed.heard(from) == b"still there"
            });
            sealed.until("all of it", |sealed| sealed.heard(to).len() == words.len());
            assert!(sealed.heard(to) == words);
        }
    }
}

#[test]
fn who_does_not_hear_may_go_on_speaking() {
    let mut sealed = SealedTable::lay(None, 1 << 17, b"", [TLS13, None]);
    // The upstream floods the client, which reads nothing.
    sealed.say(Side::Upstream, &vec![7; 16 << 20]);
    for _ in 0..200 {
        sealed.utter(Side::Upstream, usize::MAX);
        sealed.table.turn().unwrap();
    }
    assert!(sealed.table.session.held() > 1 << 16);
    let words = Dice::new(4).bytes(300_000);
    sealed.say(Side::Client, &words);
    until("what the client says", || {
        sealed.utter(Side::Client, usize::MAX);
        sealed.table.turn().unwrap();
        sealed.hear(Side::Upstream, 1 << 16);
        sealed.heard(Side::Upstream).len() == words.len()
    });
    assert!(sealed.heard(Side::Upstream) == words);
}

#[test]
fn many_records_with_little_in_them_use_up_a_share() {
    let mut sealed = SealedTable::lay(None, 4096, b"", [TLS13, None]);
    sealed.table.share = 1000;
    for _ in 0..2000 {
        sealed.party(Side::Client).say(b"x");
    }
    let records = sealed.party(Side::Client).sends();
    assert_eq!(sealed.peer(Side::Client).say(&records), records.len());
    let mut turns = 0;
    until("all of it", || {
        sealed.table.listen();
        let table = &mut sealed.table;
        let before = table.session.counts().0;
        let went = table
            .session
            .pump(Side::Client, &mut table.tools, 1000, usize::MAX);
        turns += u64::from(went == Ok(Pumped::HasMore));
        assert!(
            table.session.counts().0 - before <= 300,
            "one buffer's worth"
        );
        table.session.counts().0 == 2000
    });
    assert!(turns >= 8, "{turns}");
}
