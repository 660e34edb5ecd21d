//! One session with TLS over real sockets: the ways in which it ends before its time.

use std::io::{Read, Write};
use std::sync::Arc;

use _relay::session::{End, Side};
use _relay::tls::{Alert, Server};
use rustls::SignatureScheme::ECDSA_NISTP256_SHA256;
use rustls::version::TLS13;

mod support;

use support::certificates::{Paper, Wish};
use support::party::{NAME, Party, offer, player, player_config, talk};
use support::sealed::SealedTable;
use support::table::{SIDES, Table};
use support::{Dice, until};

const TLS12: Option<(bool, bool)> = Some((true, false));
const TLS: Option<(bool, bool)> = Some((false, true));
const BAD_RECORD_MAC: u8 = 20;
/// What looks like a record.
const GARBAGE: &[u8] = b"\x17\x03\x03\0\x20................................";

/// The number of our alert with which a side's TLS broke.
fn sent(end: &End, whose: Side) -> u8 {
    match end {
        End::BadTls(side, failure) if *side == whose => match failure.alert {
            Alert::Sent(number) => number,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_ends_without_a_goodbye_has_perhaps_not_said_all() {
    for (version, from) in [
        (TLS12, Side::Client),
        (TLS, Side::Upstream),
        (TLS, Side::Client),
    ] {
        let tls = SIDES.map(|side| version.filter(|_| side == from));
        for cut in [false, true] {
            let mut sealed = SealedTable::lay(None, 4096, b"", tls);
            sealed.say(from, b"words");
            if cut {
                sealed.say_raw(from, &GARBAGE[..20]); // a part of a record
            }
            sealed.end(from);
            let to = from.other();
            sealed.until("the end", |sealed| sealed.is_told(to));
            assert_eq!(sealed.heard(to), b"words");
            sealed.end(to);
            sealed.until("the other end", |sealed| sealed.table.session.is_over());
            assert_eq!(sealed.table.session.gentle_end(), End::Truncated(from));
        }
    }
}

#[test]
fn who_was_told_goodbye_first_needs_none() {
    let mut sealed = SealedTable::lay(None, 4096, b"", [TLS, None]);
    sealed.end(Side::Upstream);
    sealed.until("goodbye", |sealed| sealed.is_told(Side::Client));
    sealed.end(Side::Client);
    sealed.until("the other end", |sealed| sealed.table.session.is_over());
    assert_eq!(
        sealed.table.session.gentle_end(),
        End::Closed(Side::Upstream)
    );
}

#[test]
fn sound_records_arrive_before_garbage_ends_it() {
    for tls in [
        [TLS, None],
        [None, TLS],
        [TLS12, None],
        [TLS, TLS12],
        [TLS12, TLS],
    ] {
        for from in SIDES
            .into_iter()
            .filter(|&side| tls[side as usize].is_some())
        {
            let mut sealed = SealedTable::lay(None, 4096, b"", tls);
            sealed.say(from, b"sound");
            sealed.say_raw(from, GARBAGE);
            let end = sealed.failure();
            assert_eq!(sent(&end, from), BAD_RECORD_MAC);
            sealed.table.wind_up();
            until("all of it", || {
                for side in SIDES {
                    sealed.hear(side, 1 << 16);
                }
                sealed.heard(from.other()) == b"sound" && sealed.party(from).failure.is_some()
            });
            let told = sealed.party(from).failure.as_ref().unwrap();
            assert_eq!(told.alert, Alert::Received(BAD_RECORD_MAC));
        }
    }
}

/// However slowly the other side takes them, and however little of it goes in a turn.
#[test]
fn sound_records_arrive_before_garbage_ends_it_at_any_pace() {
    for cap in [usize::MAX, 500] {
        for from in SIDES {
            let to = from.other();
            let tls = SIDES.map(|side| TLS.filter(|_| side == from));
            // Nothing is left with the kernel for long.
            let mut sealed = SealedTable::lay(Some(4096), 1 << 16, b"", tls);
            let words = Dice::new(1).bytes(100_000);
            sealed.say(from, &words);
            sealed.say_raw(from, GARBAGE);
            let mut end = None;
            until("failure", || {
                sealed.utter(from, usize::MAX);
                sealed.say(to, b"and the other way");
                sealed.table.listen();
                let table = &mut sealed.table;
                for side in SIDES {
                    let went = table.session.pump(side, &mut table.tools, usize::MAX, cap);
                    end = end.take().or(went.err());
                }
                sealed.hear(to, 700);
                sealed.hear(from, 1 << 16);
                end.is_some()
            });
            assert_eq!(sent(&end.unwrap(), from), BAD_RECORD_MAC);
            let counts = sealed.table.session.counts();
            let moved = if from == Side::Client {
                counts.0
            } else {
                counts.1
            };
            assert_eq!(moved, words.len() as u64);
            // Behind the alert nothing more came.
            let told = sealed.party(from).failure.clone().unwrap();
            assert_eq!(told.alert, Alert::Received(BAD_RECORD_MAC));
        }
    }
}

/// A player with another TLS than ours, at a table.
fn guest() -> (rustls::ClientConnection, Table) {
    let paper = Paper::signed_by_itself(Wish::host(NAME));
    let server = Server::new(offer(&paper)).unwrap();
    let config = Arc::new(player_config(&[&TLS13], &[ECDSA_NISTP256_SHA256], None));
    let (mut player, mut server) = (player(&config), Party::new(server.accept().unwrap()));
    talk(&mut player, &mut server).unwrap();
    let mut table = Table::lay(None, 4096, b"");
    table.seal(Side::Client, Box::new(server.tls));
    (player, table)
}

#[test]
fn keys_are_changed_in_a_session_and_that_moves_nothing() {
    let (mut player, mut table) = guest();
    for round in 0..40 {
        let before = table.session.counts();
        let mut records = Vec::new();
        player.refresh_traffic_keys().unwrap();
        player.write_tls(&mut records).unwrap();
        table.peer(Side::Client).say(&records);
        for _ in 0..3 {
            table.turn().unwrap();
        }
        assert_eq!(table.session.counts(), before);
        // The answer goes before the next words.
        table.peer(Side::Upstream).say(b"down");
        until("an answer", || {
            table.turn().unwrap();
            let peer = table.peer(Side::Client);
            peer.hear(1000);
            player.read_tls(&mut &peer.heard[..]).unwrap();
            peer.heard.clear();
            player.process_new_packets().unwrap();
            let mut words = [0; 5];
            player
                .reader()
                .read(&mut words)
                .is_ok_and(|count| words[..count] == *b"down")
        });
        records.clear();
        player.writer().write_all(b"up").unwrap();
        player.write_tls(&mut records).unwrap();
        table.peer(Side::Client).say(&records);
        table.bring(Side::Upstream, 2 * (round + 1));
    }
}

#[test]
fn what_the_game_server_was_to_have_first_is_sealed_too() {
    let first = Dice::new(3).bytes(50_000);
    let mut sealed = SealedTable::lay(Some(4096), 4096, &first, [None, TLS]);
    sealed.say(Side::Client, b"and then this");
    sealed.until("all of it", |sealed| {
        sealed.heard(Side::Upstream).len() == 50_013
    });
    assert!(sealed.heard(Side::Upstream).starts_with(&first));
    assert_eq!(sealed.table.session.counts(), (50_013, 0));
}

#[test]
fn what_came_with_the_last_of_a_handshake_is_not_lost() {
    let (mut client, mut server) = support::party::strangers((false, true));
    server.hear(&client.sends());
    client.hear(&server.sends());
    client.say(b"early bird");
    client.close();
    server.hear(&client.sends());
    server.tls.keep_clear(&server.heard);
    let mut table = Table::lay(None, 4096, b"");
    table.seal(Side::Client, Box::new(server.tls));
    table.bring(Side::Upstream, 10);
    assert_eq!(table.peer(Side::Upstream).heard, b"early bird");
    until("the end", || {
        table.turn().unwrap();
        table.peer(Side::Upstream).hear(1);
        table.peer(Side::Upstream).told
    });
    assert_eq!(table.session.gentle_end(), End::Closed(Side::Client));
}
