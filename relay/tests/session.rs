//! One session over real sockets: what goes in comes out, in order and counted, and nothing is taken that cannot be kept.

use _relay::session::{Pumped, Session, Side};
use _relay::tools::Tools;

mod support;

use support::table::{SIDES, Table};
use support::{Dice, pair, until};

const MIB: usize = 1 << 20;

/// Both sides say what they have to, in pieces, and end; in any order, at any pace, through any buffers.
#[test]
fn any_schedule_brings_every_byte_in_order_and_both_ends() {
    for seed in 0..100 {
        play(seed);
    }
}

fn play(seed: u64) {
    let mut dice = Dice::new(seed);
    let kernel_buffer = dice.of(&[None, Some(4096), Some(20_000)]);
    let size = dice.of(&[0, 0, 1, 70_000]);
    let first = dice.bytes(size);
    let buffer_size = dice.of(&[1, 1000, 4096, 65_536]);
    let mut table = Table::lay(kernel_buffer, buffer_size, &first);
    table.share = dice.of(&[1, 5000, usize::MAX]);
    let words = [0, 1].map(|_| {
        let size = dice.of(&[0, 1, 3000, 50_000, 200_000]);
        dice.bytes(size.min(buffer_size * 2000))
    });
    let mut ended = [false; 2];
    let (mut counts, mut first_told) = (None, None);
    until(&format!("the end of seed {seed}"), || {
        for side in SIDES {
            let peer = table.peer(side);
            if !dice.hit(3) {
                let rest = &words[side as usize][peer.said.len()..];
                let count = dice.of(&[1, 1500, 100_000]).min(rest.len());
                if count > 0 {
                    peer.say(&rest[..count]);
                } else if !ended[side as usize] {
                    peer.end();
                    ended[side as usize] = true;
                }
            }
            if !dice.hit(3) && !peer.told {
                peer.hear(dice.of(&[1, 1500, 100_000]));
                if peer.told {
                    first_told.get_or_insert(counts.is_some() || table.session.first_end.is_some());
                }
            }
        }
        if counts.is_none() && !dice.hit(4) && table.turn().unwrap() {
            counts = Some(table.wind_up()); // whoever ended second is told of the first end by this
        }
        counts.is_some() && SIDES.iter().all(|&side| table.peer(side).told)
    });
    let [player, server] = table.peers.map(Option::unwrap);
    assert!(
        server.heard == [first, words[0].clone()].concat(),
        "seed {seed}: upstream"
    );
    assert!(player.heard == words[1], "seed {seed}: client");
    let heard = [&server, &player].map(|peer| peer.heard.len() as u64);
    assert_eq!(
        counts,
        Some(heard.into()),
        "seed {seed}: (to_upstream, to_client)"
    );
    assert!(
        first_told.unwrap(),
        "seed {seed}: told of an end that nobody had sent"
    );
}

#[test]
fn what_was_read_before_goes_first_and_is_counted_as_the_kernel_takes_it() {
    let first = Dice::new(1).bytes(MIB);
    let mut table = Table::lay(Some(8192), 4096, &first);
    assert_eq!(table.session.counts(), (0, 0));
    table.peer(Side::Client).say(b"and then this");
    assert_eq!(table.pump(Side::Client), Ok(Pumped::Waits));
    let (taken, _) = table.session.counts();
    assert!(0 < taken && taken < MIB as u64, "{taken}");
    table.bring(Side::Upstream, MIB + 13);
    assert!(table.peer(Side::Upstream).heard == [&first[..], b"and then this"].concat());
    assert_eq!(table.session.counts(), (MIB as u64 + 13, 0));
}

#[test]
fn nothing_more_is_read_for_a_side_that_takes_nothing() {
    for from in SIDES {
        let to = from.other();
        let mut table = Table::lay(Some(8192), 4096, b"");
        table.stuff(from);
        let said = table.peer(from).said.len();
        assert!(said < MIB / 4, "{said} bytes on the way");
        // The other direction lives, and its bytes do not loosen the first.
        let other_way = Dice::new(2).bytes(MIB);
        let mut rest = &other_way[..];
        until("the other way", || {
            let count = table.peer(to).say(rest);
            rest = &rest[count..];
            table.turn().unwrap();
            table.peer(from).hear(MIB);
            table.peer(from).heard.len() == other_way.len()
        });
        assert!(table.peer(from).heard == other_way);
        assert_eq!(table.peer(from).said.len(), said);
        table.bring(to, said);
        let (up, down) = table.session.counts();
        let moved = if from == Side::Client { up } else { down };
        assert_eq!(moved, said as u64);
    }
}

#[test]
fn a_debt_is_bounded_by_the_buffer() {
    let (player, client) = pair(Some(8192));
    let (mut server, upstream) = pair(None);
    let mut session = Session::new(client, upstream, Vec::new());
    let mut tools = Tools::new(5000, 0);
    let (words, mut said) = (vec![1; 1 << 16], 0);
    until("a stall", || {
        said += server.say(&words);
        session.announce(Side::Upstream, true, false, false);
        session
            .pump(Side::Upstream, &mut tools, usize::MAX, usize::MAX)
            .unwrap();
        let unread = rustix::io::ioctl_fionread(session.socket(Side::Upstream)).unwrap();
        let in_hand = said as u64 - unread - session.counts().1;
        assert!(in_hand <= 5000, "{in_hand} bytes in hand");
        unread > 20_000
    });
    drop(player);
}

#[test]
fn a_direction_that_used_up_its_share_has_more_and_gets_it_all_in_the_end() {
    let words = Dice::new(3).bytes(100_000);
    let mut table = Table::lay(None, 1000, b"");
    table.share = 4500;
    assert_eq!(table.peer(Side::Upstream).say(&words), words.len());
    until("all of it there", || {
        rustix::io::ioctl_fionread(table.session.socket(Side::Upstream)).unwrap() == 100_000
    });
    table.listen();
    for turn in 1..=20 {
        assert_eq!(table.pump(Side::Upstream), Ok(Pumped::HasMore));
        assert_eq!(
            table.session.counts(),
            (0, 5000 * turn),
            "a share, and the rest of its last buffer"
        );
    }
    assert_eq!(table.pump(Side::Upstream), Ok(Pumped::Waits));
    table.bring(Side::Client, 100_000);
    assert!(table.peer(Side::Client).heard == words);
}

#[test]
fn a_side_is_not_asked_again_after_a_short_read_until_it_is_announced() {
    let mut table = Table::lay(None, 4096, b"");
    table.peer(Side::Client).say(b"one");
    until("news", || !table.listen()[0].is_empty());
    assert_eq!(table.pump(Side::Client), Ok(Pumped::Waits));
    assert_eq!(table.session.counts(), (3, 0));
    table.peer(Side::Client).say(b"two");
    assert_eq!(table.pump(Side::Client), Ok(Pumped::Waits));
    assert_eq!(table.session.counts(), (3, 0));
    table.bring(Side::Upstream, 6);
    assert_eq!(table.peer(Side::Upstream).heard, b"onetwo");
}

#[test]
fn an_end_that_was_announced_with_the_last_bytes_is_read_with_them() {
    let mut table = Table::lay(None, 4096, b"");
    table.peer(Side::Upstream).say(b"last words");
    table.peer(Side::Upstream).end();
    until("the end", || {
        use rustix::event::epoll::EventFlags;
        table.listen()[1].contains(EventFlags::RDHUP)
    });
    assert_eq!(table.pump(Side::Upstream), Ok(Pumped::Waits));
    assert_eq!(table.session.first_end, Some(Side::Upstream));
    assert!(!table.session.is_over());
    table.bring(Side::Client, 10);
    until("the end", || {
        table.peer(Side::Client).hear(1);
        table.peer(Side::Client).told
    });
}
