//! TLS that comes to nothing: whose certificate is not good, which alert says so, and what is no TLS at all.

use std::sync::Arc;

use _relay::tls::{Alert, Client, Failure, Offer, REST, Server, Tls};
use rustls::SignatureScheme::ECDSA_NISTP256_SHA256;
use rustls::version::{TLS12, TLS13};

mod support;

use support::certificates::{Paper, Wish};
use support::party::{
    NAME, Party, converse, friends, offer, player, player_config, strangers, talk,
};

const BAD_CERTIFICATE: u8 = 42;
const CERTIFICATE_EXPIRED: u8 = 45;
const CERTIFICATE_UNKNOWN: u8 = 46;
const UNKNOWN_CA: u8 = 48;
const DECRYPT_ERROR: u8 = 51;
const UNEXPECTED_MESSAGE: u8 = 10;
const BAD_RECORD_MAC: u8 = 20;
const HANDSHAKE_FAILURE: u8 = 40;
const PROTOCOL_VERSION: u8 = 70;
const CERTIFICATE_REQUIRED: u8 = 116;

/// What becomes of our client, which trusts `ca`, with a server that shows `paper`.
fn meet(ca: &Paper, paper: &Paper, name: &str) -> (Option<Failure>, Option<Failure>) {
    let client = Client::new(Some(std::slice::from_ref(&ca.chain)), None).unwrap();
    let mut client = Party::new(client.connect(name).unwrap());
    let mut server = Party::new(Server::new(offer(paper)).unwrap().accept().unwrap());
    converse(&mut client, &mut server, || usize::MAX);
    (client.failure, server.failure)
}

#[test]
fn a_game_server_is_who_its_certificate_says_by_whom_we_trust() {
    let root = Paper::signed_by_itself(Wish::authority("root"));
    let other = Paper::signed_by_itself(Wish::authority("root")); // of the same name
    let host = Wish::host(NAME);
    let late = Wish {
        expired: true,
        ..host
    };
    let between = root.sign(Wish::authority("between"));
    let own = Paper::signed_by_itself(Wish::authority(NAME));
    let plain_own = Paper::signed_by_itself(host);
    let late_own = Paper::signed_by_itself(Wish {
        authority: true,
        ..late
    });
    for (row, (ca, paper, name, alert)) in [
        (&root, &root.sign(host), NAME, None),
        (&root, &between.sign(host), NAME, None),
        (
            &root,
            &root.sign(host),
            "other.example",
            Some(BAD_CERTIFICATE),
        ),
        (&root, &root.sign(late), NAME, Some(CERTIFICATE_EXPIRED)),
        (&root, &other.sign(host), NAME, Some(DECRYPT_ERROR)),
        (&root, &root.sign(host).sign(host), NAME, Some(UNKNOWN_CA)), // by one who may not sign
        // Who is trusted himself.
        (&own, &own, NAME, None),
        (&plain_own, &plain_own, NAME, None),
        (&own, &own, "other.example", Some(BAD_CERTIFICATE)),
        (&late_own, &late_own, NAME, Some(CERTIFICATE_EXPIRED)),
        (&root, &own, NAME, Some(UNKNOWN_CA)),
    ]
    .into_iter()
    .enumerate()
    {
        let (ours, theirs) = meet(ca, paper, name);
        let Some(alert) = alert else {
            assert_eq!((ours, theirs), (None, None), "row {row}");
            continue;
        };
        let ours = ours.unwrap();
        assert!(ours.distrust, "row {row}: {ours:?}");
        assert_eq!(ours.alert, Alert::Sent(alert), "row {row}: {ours:?}");
        assert!(!ours.cause.contains('\n') && !ours.cause.is_empty());
        assert_eq!(theirs.unwrap().alert, Alert::Received(alert), "row {row}");
    }
}

#[test]
fn players_show_a_certificate_with_so_many_authorities_between() {
    let root = Paper::signed_by_itself(Wish::authority("root"));
    let first = root.sign(Wish::authority("first"));
    let second = first.sign(Wish::authority("second"));
    let own = Paper::signed_by_itself(Wish::authority("own"));
    let player_of = |signer: &Paper| signer.sign(Wish::host("player"));
    let late = root.sign(Wish {
        expired: true,
        ..Wish::host("player")
    });
    let paper = Paper::signed_by_itself(Wish::host(NAME));
    for (row, (ca, depth, shown, alert)) in [
        (&root, 0, Some(&player_of(&root)), None),
        (
            &root,
            0,
            Some(&player_of(&first)),
            Some(CERTIFICATE_UNKNOWN),
        ),
        (&root, 1, Some(&player_of(&first)), None),
        (
            &root,
            1,
            Some(&player_of(&second)),
            Some(CERTIFICATE_UNKNOWN),
        ),
        (&root, 2, Some(&player_of(&second)), None),
        (&root, 9, Some(&player_of(&own)), Some(UNKNOWN_CA)),
        (&root, 9, Some(&late), Some(CERTIFICATE_EXPIRED)),
        (&own, 0, Some(&own), None), // he is trusted himself
        (&root, 9, None, Some(CERTIFICATE_REQUIRED)),
    ]
    .into_iter()
    .enumerate()
    {
        for version in [&TLS12, &TLS13] {
            let server = Server::new(Offer {
                client_ca: Some((&ca.chain, depth)),
                ..offer(&paper)
            });
            let mut server = Party::new(server.unwrap().accept().unwrap());
            let config = player_config(&[version], &[ECDSA_NISTP256_SHA256], shown);
            let mut player = player(&Arc::new(config));
            let went = talk(&mut player, &mut server);
            let Some(alert) = alert else {
                assert_eq!(server.failure, None, "row {row}, {version:?}");
                let found = server.tls.agreed().certificate.unwrap();
                assert!(shown.unwrap().is(&found), "row {row}");
                continue;
            };
            // TLS 1.2 has no alert for that.
            let mended = version == &TLS12 && alert == CERTIFICATE_REQUIRED;
            let alert = if mended { HANDSHAKE_FAILURE } else { alert };
            let failure = server.failure.unwrap();
            assert_eq!(
                failure.alert,
                Alert::Sent(alert),
                "row {row}, {version:?}: {failure:?}"
            );
            assert_eq!(failure.distrust, shown.is_some(), "row {row}");
            let heard = went.unwrap_err();
            assert_eq!(
                heard,
                rustls::Error::AlertReceived(alert.into()),
                "row {row}"
            );
        }
    }
}

#[test]
fn versions_and_ciphers_that_are_not_ours_are_refused_by_alert() {
    let paper = Paper::signed_by_itself(Wish::host(NAME));
    for (versions, version) in [((true, false), &TLS13), ((false, true), &TLS12)] {
        let server = Server::new(Offer {
            versions,
            ..offer(&paper)
        });
        let mut server = Party::new(server.unwrap().accept().unwrap());
        let config = player_config(&[version], &[ECDSA_NISTP256_SHA256], None);
        talk(&mut player(&Arc::new(config)), &mut server).unwrap_err();
        assert_eq!(server.failure.unwrap().alert, Alert::Sent(PROTOCOL_VERSION));
    }
}

/// A record of handshake messages, in clear.
fn handshake(content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    [&[22, 3, 3], &length[..], content].concat()
}

#[test]
fn what_is_no_hello_is_refused() {
    let part_of_a_hello = handshake(&[1, 0, 1, 0, 3, 3]);
    for (row, (records, alert)) in [
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), None),
        (vec![0; 100], None),
        (vec![22, 3, 1, 0xff, 0xff], None), // longer than a record may be
        (handshake(&[1, 0xff, 0xff, 0xff]), None), // longer than a message may be
        (
            vec![21, 3, 3, 0, 2, 2, 40],
            Some(Alert::Received(HANDSHAKE_FAILURE)),
        ),
        // Two whole messages in one record, the first of which is not its turn.
        (
            handshake(&[14, 0, 0, 0, 14, 0, 0, 0]),
            Some(Alert::Sent(UNEXPECTED_MESSAGE)),
        ),
        // Something else in the midst of a message.
        ([&part_of_a_hello[..], &[20, 3, 3, 0, 1, 1]].concat(), None),
        (
            [&part_of_a_hello[..], &[21, 3, 3, 0, 2, 1, 0]].concat(),
            None,
        ),
        (
            [&part_of_a_hello[..], &[99, 3, 3, 0, 2, 1, 0]].concat(),
            None,
        ),
        // A message that is whole, and wrong, behind another's beginning in the same record.
        (handshake(&[1, 0, 0, 1, 9, 1, 0, 0, 9]), None),
    ]
    .into_iter()
    .enumerate()
    {
        for piece in [1, 3, usize::MAX] {
            let (_, mut server) = strangers((true, true));
            for bytes in records.chunks(piece) {
                server.hear(bytes);
            }
            let failure = server.failure.as_ref().expect("refused");
            if let Some(alert) = alert {
                assert_eq!(failure.alert, alert, "row {row}: {failure:?}");
            }
            assert!(!failure.distrust && server.heard.is_empty());
            assert_eq!(server.tls.held(), 0, "row {row}");
            nothing_comes_or_goes(&mut server);
        }
    }
}

/// As it is after a failure.
fn nothing_comes_or_goes(party: &mut Party) {
    party.sends();
    let heard = party.heard.len();
    party.hear(b"more");
    assert!(party.write(|tls, out| tls.encrypt(b"words", out)).is_err());
    assert!(party.write(Tls::close).is_err());
    assert_eq!((party.heard.len(), party.out.len()), (heard, 0));
    assert_eq!(party.tls.held(), 0);
}

#[test]
fn a_message_in_very_many_records_is_not_kept() {
    // A hello of 65 000 bytes, one in each record.
    let hello = [vec![1, 0, 0xfd, 0xe8], vec![0; 65_000]].concat();
    let (_, mut server) = strangers((true, true));
    for bytes in hello.chunks(100) {
        let records: Vec<u8> = bytes.iter().flat_map(|&one| handshake(&[one])).collect();
        server.hear(&records);
        assert!(server.tls.held() <= REST + 2000);
    }
    let failure = server.failure.as_ref().unwrap();
    assert_eq!(failure.alert, Alert::None, "{failure:?}");
    nothing_comes_or_goes(&mut server);
}

#[test]
fn garbage_behind_sound_records_is_told_by_alert() {
    for (versions, version) in [((true, false), "TLSv1.2"), ((false, true), "TLSv1.3")] {
        for garbage in [&[23, 3, 3, 0, 30][..], b"garbage", &[22, 3, 3, 0, 40]] {
            for piece in [1, usize::MAX] {
                let (mut client, mut server) = friends(versions);
                client.say(b"sound");
                client.out.extend_from_slice(garbage);
                client.out.extend_from_slice(&[7; 100]);
                for bytes in client.sends().chunks(piece) {
                    server.hear(bytes);
                }
                assert_eq!(server.heard, b"sound");
                let failure = server.failure.clone().unwrap();
                // Garbage that looks like a record is not sealed as it should be. TLS 1.3 hides what is no bytes.
                let looks_good = garbage.len() == 5 && (garbage[0] == 23 || version == "TLSv1.2");
                let alert = if looks_good {
                    BAD_RECORD_MAC
                } else {
                    UNEXPECTED_MESSAGE
                };
                assert_eq!(failure.alert, Alert::Sent(alert), "{failure:?}");
                client.hear(&server.sends());
                if let Alert::Sent(alert) = failure.alert {
                    assert_eq!(
                        client.failure.map(|failure| failure.alert),
                        Some(Alert::Received(alert)),
                        "{version}"
                    );
                }
                nothing_comes_or_goes(&mut server);
            }
        }
    }
}

#[test]
fn a_record_that_was_dropped_or_comes_twice_is_found_out() {
    for versions in [(true, false), (false, true)] {
        let records = |client: &mut Party| {
            [b"one", b"two"].map(|words| {
                client.say(words);
                client.sends()
            })
        };
        let (mut client, mut server) = friends(versions);
        let [_, second] = records(&mut client);
        server.hear(&second);
        assert_eq!(server.failure.unwrap().alert, Alert::Sent(BAD_RECORD_MAC));
        let (mut client, mut server) = friends(versions);
        let [first, _] = records(&mut client);
        server.hear(&first);
        server.hear(&first);
        assert_eq!(server.failure.unwrap().alert, Alert::Sent(BAD_RECORD_MAC));
        assert_eq!(server.heard, b"one");
    }
}

#[test]
fn an_alert_in_the_midst_is_the_peers() {
    let (mut client, mut server) = friends((true, true));
    client.out.extend_from_slice(&[23, 3, 3, 0, 30]);
    client.out.extend_from_slice(&[7; 30]);
    converse(&mut client, &mut server, || usize::MAX);
    let failure = client.failure.unwrap();
    assert_eq!(failure.alert, Alert::Received(BAD_RECORD_MAC));
    assert_eq!(failure.to_string(), "received alert bad_record_mac");
    assert_eq!(Failure::goodbye().alert, Alert::Received(0));
}
