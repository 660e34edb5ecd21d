//! Bulk through pipes: every byte in order, nothing of it ever anybody else's, and no more pipes than there may be.

use _relay::engine::Handle;
use _relay::places::Places;
use _relay::session::{Pumped, Session, Side};
use _relay::tools::Tools;

mod support;

use support::stage::{ENDLESS, Play, ends};
use support::table::{SIDES, Table};
use support::{Dice, pair, until};

const BUFFER: usize = 1 << 16;
const MIB: usize = 1 << 20;

/// A table with pipes.
fn lay(kernel_buffer: Option<usize>, pipes: usize) -> Table {
    let mut table = Table::lay(kernel_buffer, BUFFER, b"");
    table.tools = Tools::new(BUFFER, pipes);
    table
}

/// Both sides say that much, and hear it all.
fn exchange(table: &mut Table, words: &[Vec<u8>; 2], dice: &mut Dice) {
    until("all of it there", || {
        for side in SIDES {
            let peer = table.peer(side);
            let rest = &words[side as usize][peer.said.len()..];
            peer.say(rest);
            if !dice.hit(3) {
                peer.hear(dice.of(&[1000, 100_000, MIB]));
            }
        }
        table.turn().unwrap();
        SIDES.iter().all(|&side| {
            let due = words[side.other() as usize].len();
            table.peer(side).heard.len() == due
        })
    });
    for side in SIDES {
        assert!(table.peer(side).heard == words[side.other() as usize]);
    }
}

#[test]
fn bulk_arrives_byte_by_byte_whether_the_other_side_keeps_up_or_not() {
    for seed in 0..20 {
        let mut dice = Dice::new(seed);
        let mut table = lay(
            dice.of(&[None, None, Some(100_000)]),
            dice.of(&[0, 1, 2, 3]),
        );
        let words = [dice.bytes(5 * MIB + 1), dice.bytes(2 * MIB + 7)];
        exchange(&mut table, &words, &mut dice);
        let counts = [words[0].len() as u64, words[1].len() as u64];
        assert_eq!(table.session.counts(), counts.into());
    }
}

#[test]
fn a_pipe_is_lent_while_it_is_owed_and_comes_back_empty() {
    let mut table = lay(None, 1);
    let (player, client) = pair(None);
    let (mut server, upstream) = pair(None);
    let mut stalled = Session::new(client, upstream, Vec::new());
    let words = Dice::new(1).bytes(MIB);
    until("a stall", || {
        server.say(&words); // nobody hears it
        stalled.announce(Side::Upstream, true, false, false);
        stalled
            .pump(Side::Upstream, &mut table.tools, usize::MAX, usize::MAX)
            .unwrap();
        table.tools.take_pipe().is_none_or(|pipe| {
            table.tools.give_back(pipe);
            false
        })
    });
    // Others copy meanwhile.
    let mut dice = Dice::new(2);
    let bulk = [dice.bytes(MIB), dice.bytes(MIB)];
    exchange(&mut table, &bulk, &mut dice);
    assert!(table.tools.take_pipe().is_none());
    // Whoever is reset leaves a pipe that nobody gets: a new one is opened in its place.
    drop((player, server, stalled));
    let pipe = table.tools.take_pipe().expect("a new pipe");
    assert!(pipe.is_empty());
    table.tools.give_back(pipe);
    let more = [dice.bytes(MIB), dice.bytes(MIB)];
    for side in SIDES {
        let peer = table.peer(side);
        peer.said.clear();
        peer.heard.clear();
    }
    exchange(&mut table, &more, &mut dice);
}

#[test]
fn an_urgent_byte_in_bulk_stops_nothing_and_ends_nothing() {
    let mut table = lay(None, 1);
    let before = Dice::new(3).bytes(3 * BUFFER);
    let after = Dice::new(4).bytes(3 * BUFFER);
    for (round, words) in [&before, &after].into_iter().enumerate() {
        let mut said = 0;
        until("all of it there", || {
            said += table.peer(Side::Client).say(&words[said..]);
            table.turn().unwrap();
            let peer = table.peer(Side::Upstream);
            peer.hear(MIB);
            peer.heard.len() == (round + 1) * 3 * BUFFER
        });
        if round == 0 {
            table.peer(Side::Client).shout(b'!');
        }
    }
    table.peer(Side::Client).end();
    until("the end", || {
        table.turn().unwrap();
        table.peer(Side::Upstream).hear(1);
        table.peer(Side::Upstream).told
    });
    assert!(table.peer(Side::Upstream).heard == [before, after].concat());
}

#[test]
fn the_last_bytes_of_bulk_come_before_the_end() {
    for side in SIDES {
        let mut table = lay(None, 1);
        let words = Dice::new(5).bytes(2 * MIB + 3);
        let mut ended = false;
        until("the end", || {
            let peer = table.peer(side);
            let said = peer.said.len();
            if said < words.len() {
                peer.say(&words[said..]);
            } else if !ended {
                peer.end();
                ended = true;
            }
            table.turn().unwrap();
            table.peer(side.other()).hear(MIB);
            table.peer(side.other()).told
        });
        assert!(table.peer(side.other()).heard == words);
        assert_eq!(table.pump(side), Ok(Pumped::Waits));
    }
}

#[test]
fn crowds_of_bulk_share_a_few_pipes() {
    let handle = Handle::start_with(Tools::new(BUFFER, 3), Places::alone(u64::MAX)).unwrap();
    let mut dice = Dice::new(6);
    let mut plays: Vec<Play> = (0..12)
        .map(|_| Play::begin(&handle, ENDLESS, None))
        .collect();
    let words: Vec<_> = plays.iter().map(|_| dice.bytes(2 * MIB + 11)).collect();
    until("all of it there", || {
        for (play, words) in plays.iter_mut().zip(&words) {
            let said = play.player.said.len();
            if said < words.len() && play.player.say(&words[said..]) == words.len() - said {
                play.player.end();
            }
            if !dice.hit(4) {
                play.server.hear(dice.of(&[1000, MIB]));
            }
        }
        plays.iter().all(|play| play.server.told)
    });
    for (play, words) in plays.iter().zip(&words) {
        assert!(play.server.heard == *words);
        play.server.end();
    }
    for (_, end) in ends(&handle, plays.len()) {
        assert_eq!((end.to_upstream, end.to_client), (2 * MIB as u64 + 11, 0));
    }
}
