use super::*;
use crate::certificates::{Paper, Wish};
use crate::tls::{Client, Offer, Server, Tls};

mod keys;

const DECODE_ERROR: u8 = 50;
const ILLEGAL_PARAMETER: u8 = 47;
const UNEXPECTED_MESSAGE: u8 = 10;
const RECORD_OVERFLOW: u8 = 22;
const BAD_RECORD_MAC: u8 = 20;
const NO_RENEGOTIATION: u8 = 100;
const USER_CANCELED: u8 = 90;
const CERTIFICATE_REQUEST: u8 = 13;
/// Records: their kinds, and what is in them.
type Parts<'a> = Vec<(u8, &'a [u8])>;
/// Versions; whether they go to the server; what is heard of them.
type Row<'a> = (&'a [bool], &'a [bool], Parts<'a>, &'a [u8]);

const BOTH: [bool; 2] = [false, true];

/// A client and a server whose handshake is over.
fn friends(is_1_3: bool) -> [Records; 2] {
    let paper = Paper::signed_by_itself(Wish::host("game.example"));
    let server = Server::new(Offer {
        pairs: vec![paper.pair()],
        versions: (!is_1_3, is_1_3),
        client_ca: None,
        alpn: Vec::new(),
        secrets: Vec::new(),
    });
    let client = Client::new(None, None).unwrap().connect("game.example");
    let mut pair = [client.unwrap(), server.unwrap().accept().unwrap()];
    let mut said = Vec::new();
    while pair.iter().any(Tls::is_handshaking) {
        for tls in &mut pair {
            let (mut clear, mut out) = (Scratch::default(), Scratch::default());
            tls.receive_all(&said, &mut clear, &mut out).unwrap();
            said = out.to_vec();
        }
    }
    pair.map(|tls| tls.records.unwrap())
}

/// What became of records at who received them.
#[derive(Debug, PartialEq, Eq)]
struct Heard {
    clear: Vec<u8>,
    answers: Vec<u8>,
    went: Result<usize, Failure>,
}

fn hear(to: &mut Records, bytes: &[u8]) -> Heard {
    let (mut clear, mut out) = (Scratch::default(), Scratch::default());
    let went = to.receive(bytes, &mut clear, &mut out);
    Heard {
        clear: clear.to_vec(),
        answers: out.to_vec(),
        went,
    }
}

/// Records of these kinds, with that in them.
fn records(from: &mut Records, parts: &[(u8, &[u8])]) -> Vec<u8> {
    let mut out = Scratch::default();
    for (kind, content) in parts {
        from.writing.seal(*kind, content, &mut out).unwrap();
    }
    out.to_vec()
}

fn words(from: &mut Records, bytes: &[u8]) -> Vec<u8> {
    let mut out = Scratch::default();
    from.encrypt(bytes, &mut out).unwrap();
    out.to_vec()
}

/// Both can still speak to each other.
fn are_friends(pair: &mut [Records; 2]) {
    let [client, server] = pair;
    let said = words(client, b"up");
    assert_eq!(hear(server, &said).clear, b"up");
    let said = words(server, b"down");
    assert_eq!(hear(client, &said).clear, b"down");
}

#[test]
fn what_may_not_come_ends_it_by_the_right_alert() {
    let big = vec![7; FRAGMENT + 1];
    let bigger = vec![7; FRAGMENT + 240]; // with a kind and a tag
    let huge = vec![7; FRAGMENT + 2048];
    let long_message = [&[NEW_SESSION_TICKET, 1, 0, 1][..], &[0; 100]].concat();
    let many: Parts<'_> = vec![(APPLICATION_DATA, &[]); usize::from(FRUITLESS) + 1];
    let rows: Vec<(&[bool], Parts<'_>, u8)> = vec![
        // Kinds that there are not, or not now.
        (&BOTH, vec![(CHANGE_CIPHER_SPEC, &[1])], UNEXPECTED_MESSAGE),
        (&BOTH, vec![(24, &[1])], UNEXPECTED_MESSAGE),
        (&BOTH, vec![(HANDSHAKE, &[])], UNEXPECTED_MESSAGE),
        (&BOTH, vec![(ALERT, &[])], UNEXPECTED_MESSAGE),
        (&[true], vec![(0, &[0; 9])], UNEXPECTED_MESSAGE), // padding alone
        (&[true], vec![(0, &[])], UNEXPECTED_MESSAGE),
        // Alerts.
        (&BOTH, vec![(ALERT, &[FATAL])], DECODE_ERROR),
        (&BOTH, vec![(ALERT, &[FATAL, 0, 0])], DECODE_ERROR),
        (&BOTH, vec![(ALERT, &[3, 0])], ILLEGAL_PARAMETER),
        // Too much.
        (&BOTH, vec![(APPLICATION_DATA, &big)], RECORD_OVERFLOW),
        (&[true], vec![(APPLICATION_DATA, &bigger)], RECORD_OVERFLOW),
        (&[false], vec![(APPLICATION_DATA, &huge)], RECORD_OVERFLOW),
        (&BOTH, vec![(HANDSHAKE, &long_message)], DECODE_ERROR),
        (&BOTH, many, UNEXPECTED_MESSAGE),
        // Messages.
        (
            &BOTH,
            vec![(HANDSHAKE, &[CERTIFICATE_REQUEST, 0, 0, 0])],
            UNEXPECTED_MESSAGE,
        ),
        (
            &BOTH,
            vec![(HANDSHAKE, &[20, 0, 0, 1, 0])],
            UNEXPECTED_MESSAGE,
        ),
        (
            &[false],
            vec![(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 0])],
            UNEXPECTED_MESSAGE,
        ),
        (
            &[true],
            vec![(HANDSHAKE, &[CLIENT_HELLO, 0, 0, 0])],
            UNEXPECTED_MESSAGE,
        ),
        (
            &[true],
            vec![(HANDSHAKE, &[HELLO_REQUEST, 0, 0, 0])],
            UNEXPECTED_MESSAGE,
        ),
        (
            &[true],
            vec![(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 2])],
            ILLEGAL_PARAMETER,
        ),
        (
            &[true],
            vec![(HANDSHAKE, &[KEY_UPDATE, 0, 0, 2, 0, 0])],
            DECODE_ERROR,
        ),
        (
            &[true],
            vec![(HANDSHAKE, &[KEY_UPDATE, 0, 0, 0])],
            DECODE_ERROR,
        ),
        (
            &[true],
            vec![(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 0, KEY_UPDATE])],
            UNEXPECTED_MESSAGE,
        ),
        // In the midst of a message.
        (
            &BOTH,
            vec![(HANDSHAKE, &[CLIENT_HELLO, 0]), (APPLICATION_DATA, b"x")],
            UNEXPECTED_MESSAGE,
        ),
        (
            &BOTH,
            vec![(HANDSHAKE, &[CLIENT_HELLO, 0]), (ALERT, &[WARNING, 0])],
            UNEXPECTED_MESSAGE,
        ),
    ];
    for (row, (versions, parts, alert)) in rows.into_iter().enumerate() {
        for &is_1_3 in versions {
            for to_server in BOTH {
                let what = format!("row {row}, 1.3: {is_1_3}, to the server: {to_server}");
                let [client, server] = friends(is_1_3);
                let (mut from, mut to) = if to_server {
                    (client, server)
                } else {
                    (server, client)
                };
                let sound = words(&mut from, b"sound");
                let bytes = [sound, records(&mut from, &parts), b"behind".to_vec()].concat();
                let heard = hear(&mut to, &bytes);
                let failure = heard.went.unwrap_err();
                assert_eq!(heard.clear, b"sound", "{what}");
                assert_eq!(failure.alert, Alert::Sent(alert), "{what}: {failure}");
                assert!(!failure.distrust && !failure.cause.is_empty());
                let told = hear(&mut from, &heard.answers).went.unwrap_err();
                assert_eq!(told.alert, Alert::Received(alert), "{what}");
            }
        }
    }
}

#[test]
fn what_may_come_beside_bytes_does_no_harm() {
    let padded = [&b"padded"[..], &[APPLICATION_DATA], &[0; 300]].concat();
    let full = vec![7; FRAGMENT];
    let ticket = [&[NEW_SESSION_TICKET, 0, 0, 50][..], &[7; 50]].concat();
    let (half, other) = ticket.split_at(3);
    let few: Parts<'_> = vec![(APPLICATION_DATA, &[]); usize::from(FRUITLESS)];
    let rows: Vec<Row<'_>> = vec![
        (&BOTH, &BOTH, few, b""),
        (&[true], &BOTH, vec![(0, &padded)], b"padded"),
        (&BOTH, &BOTH, vec![(APPLICATION_DATA, &full)], &full),
        (
            &[true],
            &BOTH,
            vec![(ALERT, &[WARNING, USER_CANCELED])],
            b"",
        ),
        (&[false], &BOTH, vec![(ALERT, &[WARNING, 41])], b""),
        (
            &[true],
            &[false],
            vec![(HANDSHAKE, &ticket), (HANDSHAKE, &ticket)],
            b"",
        ),
        (
            &[true],
            &[false],
            vec![(HANDSHAKE, half), (HANDSHAKE, other)],
            b"",
        ),
    ];
    for (row, (versions, to_servers, parts, expected)) in rows.into_iter().enumerate() {
        for &is_1_3 in versions {
            for &to_server in to_servers {
                let mut pair = friends(is_1_3);
                let [client, server] = &mut pair;
                let (from, to) = if to_server {
                    (client, server)
                } else {
                    (server, client)
                };
                let bytes = records(from, &parts);
                let heard = Heard {
                    clear: expected.to_vec(),
                    answers: Vec::new(),
                    went: Ok(bytes.len()),
                };
                assert_eq!(hear(to, &bytes), heard, "row {row}, 1.3: {is_1_3}");
                assert_eq!(to.held(), 0, "row {row}");
                are_friends(&mut pair);
            }
        }
    }
}

#[test]
fn hands_are_not_shaken_again() {
    let hello = [&[CLIENT_HELLO, 0, 1, 0][..], &[7; 256]].concat();
    for (to_server, message) in [(true, &hello[..]), (false, &[HELLO_REQUEST, 0, 0, 0])] {
        for closed in BOTH {
            let mut pair = friends(false);
            let [client, server] = &mut pair;
            let (from, to) = if to_server {
                (client, server)
            } else {
                (server, client)
            };
            if closed {
                to.close(&mut Scratch::default()).unwrap();
            }
            let said = records(from, &[(HANDSHAKE, &[message, message].concat())]);
            let heard = hear(to, &said);
            assert_eq!(heard.went, Ok(said.len()));
            if closed {
                assert_eq!(heard.answers, b"");
                continue;
            }
            let mut clear = Scratch::default();
            let (header, body) = heard.answers.split_first_chunk().unwrap();
            let body = &body[..body.len() / 2 - 2]; // of two records, one of whose headers is off
            assert_eq!(from.reading.open(*header, body, &mut clear), Ok(ALERT));
            assert_eq!(&clear[..], [WARNING, NO_RENEGOTIATION]);
        }
    }
}

#[test]
fn an_alert_of_the_peer_ends_it_and_is_not_answered() {
    for is_1_3 in BOTH {
        for (level, alert, ends) in [(FATAL, 80, true), (WARNING, 80, is_1_3), (FATAL, 90, true)] {
            let [mut client, mut server] = friends(is_1_3);
            let heard = hear(
                &mut server,
                &records(&mut client, &[(ALERT, &[level, alert])]),
            );
            assert_eq!(heard.answers, b"");
            let told = heard.went.map_err(|failure| failure.alert);
            assert_eq!(
                told.err(),
                ends.then_some(Alert::Received(alert)),
                "{level}, {alert}"
            );
        }
    }
}

#[test]
fn behind_a_goodbye_nothing_counts_and_nothing_is_said() {
    for is_1_3 in BOTH {
        let [mut client, mut server] = friends(is_1_3);
        let mut out = Scratch::default();
        client.close(&mut out).unwrap();
        let count = out.len();
        client.close(&mut out).unwrap();
        assert_eq!(out.len(), count, "said once");
        out.extend_from_slice(b"garbage");
        assert_eq!(hear(&mut server, &out).went, Ok(count));
        assert!(server.ended && !server.closed && client.closed);
        // Who has closed still hears, but of what is wrong he tells nobody.
        let said = [words(&mut server, b"more"), vec![9; 5]].concat();
        let heard = hear(&mut client, &said);
        assert_eq!(
            (&heard.clear[..], &heard.answers[..]),
            (&b"more"[..], &b""[..])
        );
        assert_eq!(heard.went.unwrap_err().alert, Alert::None);
    }
}

#[test]
fn a_record_that_was_tampered_with_is_not_opened() {
    for is_1_3 in BOTH {
        for at in [0, 1, 3, 4, 5, 12, 13, 20, 40] {
            let [mut client, mut server] = friends(is_1_3);
            let mut said = [words(&mut client, &[7; 40]), vec![0; 1 << 9]].concat();
            said[at] ^= 1;
            let heard = hear(&mut server, &said);
            assert_eq!(heard.clear, b"");
            let kind_or_size = match at {
                0 if is_1_3 => UNEXPECTED_MESSAGE,
                _ => BAD_RECORD_MAC,
            };
            let alert = heard.went.unwrap_err().alert;
            assert_eq!(alert, Alert::Sent(kind_or_size), "byte {at}");
        }
    }
}
