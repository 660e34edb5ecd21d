//! TLS in memory: our servers and clients with each other, and with rustls's other interface.

use std::sync::Arc;

use _relay::tls::{Alert, Client, Offer, Server};
use rustls::SignatureScheme::{ECDSA_NISTP256_SHA256, ED25519};
use rustls::SupportedCipherSuite;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::version::{TLS12, TLS13};

mod support;

use support::Dice;
use support::certificates::{Paper, Wish};
use support::party::{
    NAME, Party, converse, friends, offer, player, player_config, player_config_of, strangers,
    talk, tell,
};

/// TLS 1.2, TLS 1.3, and what is agreed upon.
const VERSIONS: [((bool, bool), &str); 3] = [
    ((true, false), "TLSv1.2"),
    ((false, true), "TLSv1.3"),
    ((true, true), "TLSv1.3"),
];

#[test]
fn a_handshake_and_what_comes_after_it_may_be_cut_anywhere() {
    for (versions, version) in VERSIONS {
        for seed in 0..4 {
            let mut dice = Dice::new(seed);
            let most = [1, 2, 40, 5000][usize::try_from(seed).unwrap()];
            let mut piece = || 1 + dice.size(most);
            let (mut client, mut server) = strangers(versions);
            converse(&mut client, &mut server, &mut piece);
            for party in [&client, &server] {
                assert!(!party.tls.is_handshaking(), "{version} in {most}");
                let agreed = party.tls.agreed();
                assert_eq!((agreed.version, agreed.resumed), (version, false));
                assert!(agreed.cipher.contains("AES"), "{}", agreed.cipher);
                assert_eq!(party.tls.held(), 0, "{version} in {most}");
            }
            assert!(client.tls.agreed().certificate.is_some());
            assert_eq!(server.tls.agreed().certificate, None);
            for words in [&b"up"[..], &Dice::new(seed).bytes(20 * most)] {
                client.say(words);
                server.say(words);
                converse(&mut client, &mut server, &mut piece);
                assert!(std::mem::take(&mut client.heard) == words);
                assert!(std::mem::take(&mut server.heard) == words);
            }
        }
    }
}

#[test]
fn big_ones_come_whole() {
    for (versions, _) in VERSIONS {
        let (mut client, mut server) = friends(versions);
        let words = Dice::new(1).bytes(1 << 20);
        client.say(&words);
        client.say(b"");
        converse(&mut client, &mut server, || 70_001);
        assert!(server.heard == words);
    }
}

#[test]
fn who_has_said_goodbye_still_hears() {
    for (versions, version) in VERSIONS {
        for server_first in [false, true] {
            let (mut first, mut second) = friends(versions);
            if server_first {
                std::mem::swap(&mut first, &mut second);
            }
            first.say(b"last words");
            first.close();
            assert!(first.tls.is_closed());
            // Nothing may come after it; what does is not heard.
            first.out.extend_from_slice(b"and another thing");
            converse(&mut first, &mut second, || usize::MAX);
            assert_eq!(second.heard, b"last words");
            assert!(second.tls.has_ended() && !first.tls.has_ended());
            assert_eq!(second.tls.held(), 0);
            second.say(b"answer");
            second.close();
            converse(&mut first, &mut second, || 1);
            assert_eq!(first.heard, b"answer", "{version}");
            assert!(first.tls.has_ended() && first.failure.is_none() && second.failure.is_none());
            first.close(); // once more, which is nothing
            assert_eq!(first.sends(), b"");
        }
    }
}

#[test]
fn every_cipher_of_either_version_is_understood() {
    let paper = Paper::signed_by_itself(Wish::host(NAME));
    let words = Dice::new(3).bytes(50_000);
    let mut names = Vec::new();
    for suite in default_provider().cipher_suites {
        let version = match suite {
            SupportedCipherSuite::Tls12(_) => &TLS12,
            SupportedCipherSuite::Tls13(_) => &TLS13,
        };
        let provider = CryptoProvider {
            cipher_suites: vec![suite],
            ..default_provider()
        };
        let schemes = [ECDSA_NISTP256_SHA256];
        let config = player_config_of(provider, &[version], &schemes, None);
        let mut server = Party::new(Server::new(offer(&paper)).unwrap().accept().unwrap());
        let mut player = player(&Arc::new(config));
        if talk(&mut player, &mut server).is_err() {
            continue; // of RSA
        }
        tell(&mut player, &mut server, &words);
        assert!(server.heard == words, "{suite:?}");
        server.say(&words);
        assert!(
            talk(&mut player, &mut server).unwrap() == words,
            "{suite:?}"
        );
        names.push(server.tls.agreed().cipher);
    }
    names.sort_unstable();
    let ciphers = [
        "AES128-GCM-SHA256",
        "AES256-GCM-SHA384",
        "CHACHA20-POLY1305",
    ];
    let older = ciphers.map(|cipher| format!("ECDHE-ECDSA-{cipher}"));
    let newer = [
        "AES_128_GCM_SHA256",
        "AES_256_GCM_SHA384",
        "CHACHA20_POLY1305_SHA256",
    ];
    let newer = newer.map(|cipher| format!("TLS_{cipher}"));
    assert_eq!(names, [older, newer].concat());
}

#[test]
fn keys_are_changed_on_the_way() {
    let paper = Paper::signed_by_itself(Wish::host(NAME));
    let server = Server::new(offer(&paper)).unwrap();
    let config = Arc::new(player_config(&[&TLS13], &[ECDSA_NISTP256_SHA256], None));
    let (mut player, mut server) = (player(&config), Party::new(server.accept().unwrap()));
    talk(&mut player, &mut server).unwrap();
    for round in 0..50 {
        player.refresh_traffic_keys().unwrap();
        tell(&mut player, &mut server, b"up");
        assert_eq!(server.heard.len(), 2 * (round + 1), "{:?}", server.failure);
        server.say(b"down");
        assert_eq!(talk(&mut player, &mut server).unwrap(), b"down");
    }
}

#[test]
fn the_application_protocol_is_the_first_of_ours_that_is_asked_for() {
    let paper = Paper::signed_by_itself(Wish::host(NAME));
    for (ours, theirs, agreed) in [
        (&[][..], &["game"][..], None),
        (&["game", "chat"], &["chat", "game"], Some("game")),
        (&["game"], &[], None),
    ] {
        let all = |names: &[&str]| names.iter().map(|name| name.as_bytes().to_vec()).collect();
        let server = Server::new(Offer {
            alpn: all(ours),
            ..offer(&paper)
        });
        let mut config = player_config(&[&TLS13], &[ECDSA_NISTP256_SHA256], None);
        config.alpn_protocols = all(theirs);
        let mut player = player(&Arc::new(config));
        let mut server = Party::new(server.unwrap().accept().unwrap());
        talk(&mut player, &mut server).unwrap();
        let found = server.tls.agreed().alpn;
        assert_eq!(found.as_deref(), agreed.map(str::as_bytes));
    }
}

#[test]
fn who_comes_back_is_known_where_the_secret_is_and_nowhere_else() {
    let paper = Paper::signed_by_itself(Wish::host(NAME));
    let server = |secrets: &[u8]| {
        Server::new(Offer {
            secrets: secrets.iter().map(|&one| [one; 32]).collect(),
            ..offer(&paper)
        })
        .unwrap()
    };
    for version in [&TLS12, &TLS13] {
        // The server of the first handshake, that of the second.
        for (first, second, resumed) in [
            (&[1][..], &[1][..], true),
            (&[1], &[2, 1], true), // a new key, and the one before
            (&[1], &[2], false),
            (&[1, 2], &[2], false),
            (&[], &[1], false),
            (&[1], &[], false),
        ] {
            let config = Arc::new(player_config(&[version], &[ECDSA_NISTP256_SHA256], None));
            for (secrets, resumed) in [(first, false), (second, resumed)] {
                let mut player = player(&config);
                let mut server = Party::new(server(secrets).accept().unwrap());
                talk(&mut player, &mut server).unwrap();
                tell(&mut player, &mut server, b"hello");
                assert_eq!(server.heard, b"hello");
                let found = server.tls.agreed().resumed;
                assert_eq!(found, resumed, "{version:?}: {first:?}, {second:?}");
            }
        }
    }
}

#[test]
fn who_comes_back_is_known_by_the_certificate_that_was_shown_before() {
    let paper = Paper::signed_by_itself(Wish::host(NAME));
    let root = Paper::signed_by_itself(Wish::authority("root"));
    let shown = root.sign(Wish::host("player"));
    let server = Server::new(Offer {
        client_ca: Some((&root.chain, 0)),
        secrets: vec![[1; 32]],
        ..offer(&paper)
    })
    .unwrap();
    for version in [&TLS12, &TLS13] {
        let schemes = [ECDSA_NISTP256_SHA256];
        let config = Arc::new(player_config(&[version], &schemes, Some(&shown)));
        for resumed in [false, true] {
            let mut player = player(&config);
            let mut server = Party::new(server.accept().unwrap());
            talk(&mut player, &mut server).unwrap();
            let agreed = server.tls.agreed();
            assert_eq!(agreed.resumed, resumed, "{version:?}");
            assert!(shown.is(&agreed.certificate.unwrap()));
        }
    }
}

#[test]
fn of_several_pairs_it_is_the_one_that_the_client_can_check() {
    let ecdsa = Paper::signed_by_itself(Wish::host(NAME));
    let edwards = Paper::signed_by_itself(Wish {
        edwards: true,
        ..Wish::host(NAME)
    });
    let newer = Paper::signed_by_itself(Wish::host(NAME));
    let server = Server::new(Offer {
        pairs: vec![ecdsa.pair(), edwards.pair(), newer.pair()],
        ..offer(&ecdsa)
    })
    .unwrap();
    for version in [&TLS12, &TLS13] {
        for (schemes, paper) in [
            (&[ED25519][..], &edwards),
            (&[ECDSA_NISTP256_SHA256], &newer), // the last one of its kind
            (&[ED25519, ECDSA_NISTP256_SHA256], &edwards),
            (&[ECDSA_NISTP256_SHA256, ED25519], &newer),
        ] {
            let mut player = player(&Arc::new(player_config(&[version], schemes, None)));
            let mut server = Party::new(server.accept().unwrap());
            talk(&mut player, &mut server).unwrap();
            let shown = player.peer_certificates().unwrap()[0].as_ref();
            assert!(paper.is(shown), "{version:?}, {schemes:?}");
        }
    }
}

#[test]
fn pem_that_is_no_use_is_refused() {
    let (paper, other) = [NAME; 2]
        .map(|name| Paper::signed_by_itself(Wish::host(name)))
        .into();
    for (pair, word) in [
        (
            (&paper.chain[..], &other.key[..]),
            "keys may not be consistent",
        ),
        (("", &paper.key[..]), "no certificate"),
        ((&paper.chain[..], ""), "no items found"),
        ((&paper.key[..], &paper.key[..]), "no certificate"),
    ] {
        let offer = Offer {
            pairs: vec![pair],
            ..offer(&paper)
        };
        let refused = Server::new(offer).err().unwrap().to_string();
        assert!(refused.contains(word), "{refused}");
        assert!(Client::new(None, Some(pair)).is_err());
    }
    let offer = Offer {
        versions: (false, false),
        ..offer(&paper)
    };
    assert!(Server::new(offer).is_err());
    assert!(Client::new(Some(&["nothing".into()]), None).is_err());
    let failure = Client::new(None, None).unwrap().connect("no name").err();
    assert_eq!(failure.unwrap().alert, Alert::None);
}
