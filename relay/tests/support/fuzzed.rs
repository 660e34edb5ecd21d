//! What a fuzzer, or dice, make of the path of records: bytes that nobody meant, and those of a sound connection, changed on
//! the way. Whatever comes, nothing panics, what is kept stays small, and what is heard was said.

#![allow(dead_code, reason = "every test binary uses a part of it")]

use std::sync::OnceLock;

use _relay::session::{Session, Side};
use _relay::tls::{Client, Offer, REST, Server, Tls};

use super::certificates::{Paper, Wish};
use super::party::{NAME, Party, converse, offer};
use super::table::{SIDES, Table};

/// Bytes that decide; zeros once there are none left.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        first
    }

    fn number(&mut self) -> usize {
        usize::from(u16::from_be_bytes([self.byte(), self.byte()]))
    }

    /// A size: mostly small.
    fn size(&mut self) -> usize {
        match self.byte() {
            small @ 0..200 => usize::from(small),
            _ => self.number(),
        }
    }
}

/// One run.
pub fn run(data: &[u8]) {
    let mut script = Script(data);
    let way = script.byte();
    let versions = [(true, true), (true, false), (false, true)][usize::from(way >> 4) % 3];
    match way & 15 {
        0..3 => nobody_meant_it(&mut script, versions),
        3..6 => a_changed_handshake(&mut script, versions),
        6..12 => changed_records(&mut script, versions),
        _ => a_session(&mut script, versions),
    }
}

fn strangers(versions: (bool, bool)) -> (Party, Party) {
    static CLIENT: OnceLock<Client> = OnceLock::new();
    static SERVERS: OnceLock<[Server; 4]> = OnceLock::new();
    let servers = SERVERS.get_or_init(|| {
        let paper = Paper::signed_by_itself(Wish::host(NAME));
        [(true, false), (false, true), (true, true), (true, true)].map(|versions| {
            let offer = Offer {
                versions,
                secrets: vec![[1; 32]],
                ..offer(&paper)
            };
            Server::new(offer).unwrap()
        })
    });
    let client = CLIENT.get_or_init(|| Client::new(None, None).unwrap());
    let which = match versions {
        (true, false) => 0,
        (false, true) => 1,
        _ => 2,
    };
    let client = Party::new(client.connect(NAME).unwrap());
    (client, Party::new(servers[which].accept().unwrap()))
}

fn friends(versions: (bool, bool)) -> (Party, Party) {
    let (mut client, mut server) = strangers(versions);
    converse(&mut client, &mut server, || usize::MAX);
    assert!(!client.tls.is_handshaking() && !server.tls.is_handshaking());
    (client, server)
}

fn feed(party: &mut Party, mut bytes: &[u8], script: &mut Script<'_>) {
    let usual = 64 + script.size();
    while !bytes.is_empty() {
        let piece = match script.byte() {
            0 => usual,
            other => usize::from(other),
        };
        let (now, later) = bytes.split_at(piece.min(bytes.len()));
        party.hear(now);
        assert!(
            party.tls.held() <= 2 * (REST + now.len()),
            "{}",
            party.tls.held()
        );
        bytes = later;
    }
}

fn nobody_meant_it(script: &mut Script<'_>, versions: (bool, bool)) {
    let (_, mut server) = strangers(versions);
    let bytes = script.0;
    let mut cuts = Script(&bytes[bytes.len() / 2..]);
    feed(&mut server, bytes, &mut cuts);
    assert!(server.tls.is_handshaking() && server.heard.is_empty());
}

/// Both go on answering, each through changes.
fn a_changed_handshake(script: &mut Script<'_>, versions: (bool, bool)) {
    let (mut client, mut server) = strangers(versions);
    for round in 0..6 {
        let (from, to) = if round % 2 == 0 {
            (&mut client, &mut server)
        } else {
            (&mut server, &mut client)
        };
        let mut records = vec![from.sends()];
        if script.byte() & 1 == 1 {
            change(&mut records, script);
        }
        feed(to, &records.concat(), script);
    }
    after(&mut server, &mut client);
}

fn changed_records(script: &mut Script<'_>, versions: (bool, bool)) {
    let (mut client, mut server) = friends(versions);
    let (said, mut records) = speech(&mut client, script);
    for _ in 0..script.byte() % 8 {
        change(&mut records, script);
    }
    feed(&mut server, &records.concat(), script);
    assert!(said.starts_with(&server.heard), "what was never said");
    after(&mut server, &mut client);
}

/// Whatever has become of them.
fn after(server: &mut Party, client: &mut Party) {
    for one in [server, client] {
        let failed = one.failure.is_some();
        let wrote = one.write(|tls, out| tls.encrypt(b"words", out)).is_ok();
        assert!(!(failed && wrote));
        let _ = one.write(Tls::close); // it may have failed
        one.hear(b"\x15\x03\x03\0\x02\x01\0");
        let _ = one.tls.agreed();
    }
}

/// What somebody says, in clear and record by record.
fn speech(party: &mut Party, script: &mut Script<'_>) -> (Vec<u8>, Vec<Vec<u8>>) {
    let (mut said, mut records) = (Vec::new(), Vec::new());
    for number in 0..=script.byte() % 6 {
        let words = vec![number; script.size()];
        party.say(&words);
        said.extend_from_slice(&words);
        records.push(party.sends());
    }
    if script.byte() & 1 == 1 {
        party.close();
        records.push(party.sends());
    }
    (said, records)
}

fn change(records: &mut Vec<Vec<u8>>, script: &mut Script<'_>) {
    if records.is_empty() {
        records.push(Vec::new());
    }
    let place = usize::from(script.byte()) % records.len();
    let length = records[place].len();
    let at = script.number() % (length + 1);
    match script.byte() % 8 {
        0 if at < length => records[place][at] ^= script.byte().max(1),
        1 => drop(records.remove(place)),
        2 => records.insert(place, records[place].clone()),
        3 => records.swap(place, 0),
        4 => records[place].truncate(at),
        5 => records.insert(place, vec![script.byte(); script.size()]),
        6 => drop(records[place].splice(at..at, [script.byte(), script.byte()])),
        _ => {
            // A record in clear of any kind.
            let content = vec![script.byte(); usize::from(script.byte())];
            let kind = 20 + script.byte() % 5;
            let head = [kind, 3, 3, 0, u8::try_from(content.len()).unwrap()];
            records.insert(place, [&head[..], &content].concat());
        }
    }
}

fn a_session(script: &mut Script<'_>, versions: (bool, bool)) {
    let sealed = script.byte();
    let kernel_buffer = [None, Some(4096)][usize::from(script.byte() & 1)];
    let buffer = 1 + script.number() % 5000;
    let mut table = Table::lay(kernel_buffer, buffer, b"");
    let (mut client, server) = friends(versions);
    table.seal(Side::Client, Box::new(server.tls));
    let (mut upstream, ours) = friends((true, true));
    let both = sealed & 1 == 1;
    if both {
        // We are the client; this is only as good for the records.
        table.seal(Side::Upstream, Box::new(ours.tls));
    }
    let (said, mut records) = speech(&mut client, script);
    for _ in 0..script.byte() % 4 {
        change(&mut records, script);
    }
    let records = records.concat();
    let (mut sent, mut taken, mut over) = (0, 0, false);
    for turn in 0..200 {
        let piece = (1 + script.size()).min(records.len() - sent);
        if piece > 0 && !over {
            sent += table.peer(Side::Client).say(&records[sent..sent + piece]);
        } else if turn > 100 {
            table.peer(Side::Client).end();
            table.peer(Side::Upstream).end();
        }
        if turn % 8 == 0 && !over {
            let words: &[u8] = if both { &[] } else { b"down" };
            table.peer(Side::Upstream).say(words);
        }
        over = over || went_on(&mut table, script, buffer);
        let peer = table.peer(Side::Upstream);
        peer.hear(1 + script.size());
        if both {
            upstream.hear(&peer.heard[taken..]);
            taken = peer.heard.len();
        } else {
            upstream.heard.clone_from(&peer.heard);
        }
        table.peer(Side::Client).hear(1000);
        assert!(said.starts_with(&upstream.heard), "what was never said");
    }
}

/// Whether a session that was moved is over.
fn went_on(table: &mut Table, script: &mut Script<'_>, buffer: usize) -> bool {
    table.listen();
    for side in SIDES {
        let cap = match script.byte() {
            0..200 => usize::MAX,
            other => usize::from(other - 200),
        };
        let share = 1 + script.size();
        let before = table.session.counts();
        let went = table.session.pump(side, &mut table.tools, share, cap);
        let after = table.session.counts();
        assert!(after.0 >= before.0 && after.1 >= before.1);
        if went.is_err() {
            table.wind_up();
            return true;
        }
    }
    let most = 4 * (REST + buffer + 64 * 1024);
    assert!(Session::held(&table.session) <= most);
    if table.session.is_over() {
        table.wind_up();
        return true;
    }
    false
}
