//! One session over real sockets: every way in which it ends.

use std::io::ErrorKind;

use _relay::session::{End, Pumped, Side};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;

mod support;

use support::table::{SIDES, Table};
use support::until;

/// Waits until a side's peer has heard of the end, of one kind or another.
fn farewell(table: &mut Table, side: Side) -> Option<ErrorKind> {
    let peer = table.peer(side);
    until("farewell", || {
        peer.hear(1 << 16);
        peer.told || peer.failed.is_some()
    });
    peer.failed
}

/// Waits until the kernel says of a side that it is gone; what the session knows of it by then.
fn gone(table: &mut Table, side: Side) {
    until("gone", || {
        table.listen()[side as usize].contains(EventFlags::HUP)
    });
}

#[test]
fn after_one_end_bytes_go_on_the_other_way_until_the_other_end() {
    for first in SIDES {
        let second = first.other();
        let mut table = Table::lay(None, 4096, b"");
        table.peer(first).say(b"last words");
        table.peer(first).end();
        table.bring(second, 10);
        until("the end", || {
            assert_eq!(table.turn(), Ok(false));
            table.peer(second).hear(1);
            table.peer(second).told
        });
        for count in 1..50 {
            table.peer(second).say(b"answer");
            table.bring(first, 6 * count);
            assert!(!table.session.is_over());
        }
        table.peer(second).end();
        until("over", || table.turn() == Ok(true));
        assert_eq!(table.session.first_end, Some(first));
        table.wind_up();
        assert_eq!(farewell(&mut table, first), None);
    }
}

#[test]
fn an_end_is_passed_on_only_after_the_debt_is_paid() {
    for first in SIDES {
        let second = first.other();
        let mut table = Table::lay(Some(8192), 4096, b"");
        table.stuff(first);
        let said = table.peer(first).said.len();
        table.peer(first).end();
        for _ in 0..20 {
            table.turn().unwrap();
            assert_eq!(table.session.first_end, None);
        }
        // What is owed to the first goes on, and its own end changes nothing for it.
        table.peer(second).say(b"answer");
        table.bring(first, 6);
        let mut heard_when_ended = None;
        until("the end", || {
            table.turn().unwrap();
            table.peer(second).hear(1000);
            if table.session.first_end.is_some() {
                let counts = table.session.counts();
                heard_when_ended.get_or_insert([counts.1, counts.0][second as usize]);
            }
            table.peer(second).told
        });
        assert_eq!(heard_when_ended, Some(said as u64));
        assert_eq!(table.peer(second).heard.len(), said);
        assert_eq!(table.session.first_end, Some(first));
        assert!(!table.session.is_over());
    }
}

#[test]
fn an_end_is_passed_on_though_its_side_takes_nothing() {
    for side in SIDES {
        let other = side.other();
        let mut table = Table::lay(Some(8192), 4096, b"");
        table.stuff(other);
        table.peer(side).say(b"last words");
        table.peer(side).end();
        table.bring(other, 10);
        until("the end", || {
            table.turn().unwrap();
            table.peer(other).hear(1);
            table.peer(other).told
        });
        let said = table.peer(other).said.len();
        table.bring(side, said);
        assert_eq!(table.session.first_end, Some(side));
    }
}

#[test]
fn both_may_end_before_either_is_looked_at() {
    let mut table = Table::lay(None, 4096, b"first");
    for side in SIDES {
        table.peer(side).say(b"words");
        table.peer(side).end();
    }
    until("over", || table.turn() == Ok(true));
    assert!(table.session.first_end.is_some());
    assert_eq!(table.wind_up(), (10, 5));
    for (side, words) in [(Side::Client, "words"), (Side::Upstream, "firstwords")] {
        assert_eq!(farewell(&mut table, side), None);
        assert_eq!(table.peer(side).heard, words.as_bytes());
    }
}

#[test]
fn a_reset_of_an_idle_side_reaches_the_other_as_a_reset() {
    for side in SIDES {
        let mut table = Table::lay(None, 4096, b"");
        table.turn().unwrap();
        table.reset(side);
        assert_eq!(table.failure(), End::Lost(side, Errno::CONNRESET));
        let heard = leave(table, side.other());
        assert_eq!(heard, Some(ErrorKind::ConnectionReset));
    }
}

#[test]
fn a_side_that_resets_while_it_is_owed_something_is_noticed_at_once() {
    for side in SIDES {
        let mut table = Table::lay(Some(8192), 4096, b"");
        table.stuff(side.other());
        table.reset(side);
        let end = table.failure();
        assert!(
            [Errno::CONNRESET, Errno::PIPE]
                .map(|errno| End::Lost(side, errno))
                .contains(&end),
            "{end:?}"
        );
        assert_eq!(leave(table, side.other()), Some(ErrorKind::ConnectionReset));
    }
}

#[test]
fn a_side_that_resets_while_the_other_takes_nothing_is_noticed_once_its_bytes_are_taken() {
    for side in SIDES {
        let other = side.other();
        let mut table = Table::lay(Some(8192), 4096, b"");
        table.stuff(side);
        let said = table.peer(side).said.len();
        table.reset(side);
        gone(&mut table, side);
        for _ in 0..20 {
            assert_eq!(table.turn(), Ok(false));
        }
        let mut end = None;
        until("failure", || {
            table.peer(other).hear(1000);
            end = table.turn().err();
            end.is_some()
        });
        assert_eq!(end, Some(End::Lost(side, Errno::CONNRESET)));
        let (up, down) = table.session.counts();
        let moved = if side == Side::Client { up } else { down };
        assert!(moved <= said as u64 && table.peer(other).heard.len() as u64 <= moved);
        assert_eq!(leave(table, other), Some(ErrorKind::ConnectionReset));
    }
}

/// The relay drops both sockets; what the peer of a side hears of it.
fn leave(mut table: Table, side: Side) -> Option<ErrorKind> {
    let peer = table.peers[side as usize].take();
    let mut rest = Table::lay(None, 1, b"");
    rest.peers[side as usize] = peer;
    drop(table);
    farewell(&mut rest, side)
}

#[test]
fn an_end_for_a_side_that_is_gone_is_no_failure_but_what_it_says_itself_is() {
    for side in SIDES {
        let other = side.other();
        let mut table = Table::lay(None, 4096, b"");
        table.turn().unwrap();
        table.reset(side);
        gone(&mut table, side);
        table.peer(other).end();
        until("the end", || {
            table.listen();
            assert_eq!(table.pump(other), Ok(Pumped::Waits)); // shutdown: NOTCONN
            table.session.first_end.is_some()
        });
        assert_eq!(table.session.first_end, Some(other));
        assert!(!table.session.is_over());
        assert_eq!(table.pump(side), Err(End::Lost(side, Errno::CONNRESET)));
    }
}

#[test]
fn a_side_that_ended_and_then_reset_has_closed() {
    for side in SIDES {
        let other = side.other();
        let mut table = Table::lay(None, 4096, b"");
        table.peer(side).end();
        until("the end", || {
            table.turn().unwrap();
            table.session.first_end.is_some()
        });
        table.reset(side);
        gone(&mut table, side);
        table.peer(other).end();
        until("over", || table.turn() == Ok(true));
        assert_eq!(table.session.first_end, Some(side));
    }
}

#[test]
fn a_side_that_ended_and_then_takes_no_more_has_closed() {
    for side in SIDES {
        let other = side.other();
        let mut table = Table::lay(None, 4096, b"");
        table.peer(side).end();
        until("the end", || {
            table.turn().unwrap();
            table.session.first_end.is_some()
        });
        table.close(side);
        let mut end = None;
        until("failure", || {
            table.peer(other).say(b"more");
            end = table.turn().err();
            end.is_some()
        });
        assert_eq!(end, Some(End::Closed(side)));
        let mut peer = table.peers[other as usize].take().unwrap();
        drop(table);
        until("nobody to speak to", || {
            peer.say(b"more");
            peer.failed.is_some()
        });
    }
}

/// It ended second, so its failure is its own.
#[test]
fn who_fails_after_the_other_has_ended_is_lost() {
    for side in SIDES {
        let other = side.other();
        let mut table = Table::lay(None, 4096, b"");
        table.peer(other).end();
        until("the end", || {
            table.turn().unwrap();
            table.session.first_end == Some(other)
        });
        table.reset(side);
        assert_eq!(table.failure(), End::Lost(side, Errno::CONNRESET));
    }
}
