//! Certificates of X.509 version 3 (RFC 5280) as the tests want them: P-256 or Ed25519, made when they are needed.

#![allow(dead_code, reason = "every test binary uses a part of it")]

use std::fmt::Write;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const INTEGER: u8 = 2;
const BITS: u8 = 3;
const OCTETS: u8 = 4;
const OID: u8 = 6;
const TEXT: u8 = 12;
const TIME: u8 = 23;
const TRUE: &[u8] = &[1, 1, 0xff];
const ECDSA_WITH_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
const EC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
const COMMON_NAME: &[u8] = &[0x55, 4, 3];
const ALT_NAME: &[u8] = &[0x55, 0x1d, 17];
const CONSTRAINTS: &[u8] = &[0x55, 0x1d, 19];

/// What a certificate says of who has it.
#[derive(Clone, Copy)]
pub struct Wish<'a> {
    /// As common name and, unless it is an authority's alone, as the name of a host.
    pub name: &'a str,
    /// It may sign others.
    pub authority: bool,
    /// Its time was over years ago.
    pub expired: bool,
    /// Its key is of Ed25519.
    pub edwards: bool,
}

impl<'a> Wish<'a> {
    /// A host's.
    pub fn host(name: &'a str) -> Self {
        Self {
            name,
            authority: false,
            expired: false,
            edwards: false,
        }
    }

    /// An authority's, and a host's of the same name.
    pub fn authority(name: &'a str) -> Self {
        Self {
            authority: true,
            ..Self::host(name)
        }
    }
}

enum Key {
    P256(EcdsaKeyPair),
    Edwards(Ed25519KeyPair),
}

/// A certificate and its key.
pub struct Paper {
    name: String,
    keys: Key,
    der: Vec<u8>,
    /// In PEM, and of those who have signed it up to below the root.
    pub chain: String,
    /// In PEM.
    pub key: String,
    is_root: bool,
}

impl Paper {
    /// As its own signer.
    pub fn signed_by_itself(wish: Wish<'_>) -> Self {
        Self::make(wish, None)
    }

    /// Signed by this one.
    pub fn sign(&self, wish: Wish<'_>) -> Self {
        Self::make(wish, Some(self))
    }

    /// Chain and key.
    pub fn pair(&self) -> (&str, &str) {
        (&self.chain, &self.key)
    }

    /// Whether it is this one, in DER.
    pub fn is(&self, der: &[u8]) -> bool {
        self.der == der
    }

    fn make(wish: Wish<'_>, signer: Option<&Self>) -> Self {
        let keys = if wish.edwards {
            Key::Edwards(Ed25519KeyPair::generate().unwrap())
        } else {
            Key::P256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap())
        };
        let signing = signer.map_or(&keys, |one| &one.keys);
        let algorithm = match signing {
            Key::P256(_) => der(SEQUENCE, &[&der(OID, &[ECDSA_WITH_SHA256])]),
            Key::Edwards(_) => der(SEQUENCE, &[&der(OID, &[ED25519])]),
        };
        let last = if wish.expired { "21" } else { "49" };
        let validity = ["200101000000Z", &format!("{last}0101000000Z")]
            .map(|time| der(TIME, &[time.as_bytes()]))
            .concat();
        let body = der(
            SEQUENCE,
            &[
                &der(0xa0, &[&der(INTEGER, &[&[2]])]), // version 3
                &der(INTEGER, &[&[1]]),
                &algorithm,
                &subject(signer.map_or(wish.name, |one| &one.name)),
                &der(SEQUENCE, &[&validity]),
                &subject(wish.name),
                &public(&keys),
                &der(0xa3, &[&der(SEQUENCE, &[&extensions(wish)])]),
            ],
        );
        let signature = match signing {
            Key::P256(keys) => keys
                .sign(&SystemRandom::new(), &body)
                .unwrap()
                .as_ref()
                .to_vec(),
            Key::Edwards(keys) => keys.sign(&body).as_ref().to_vec(),
        };
        let whole = der(
            SEQUENCE,
            &[&body, &algorithm, &der(BITS, &[&[0], &signature])],
        );
        let mut chain = pem("CERTIFICATE", &whole);
        if let Some(signer) = signer.filter(|one| !one.is_root) {
            chain.push_str(&signer.chain);
        }
        let private = match &keys {
            Key::P256(keys) => keys.to_pkcs8v1().unwrap(),
            Key::Edwards(keys) => keys.to_pkcs8v1().unwrap(),
        };
        let key = pem("PRIVATE KEY", private.as_ref());
        Self {
            name: wish.name.into(),
            keys,
            der: whole,
            chain,
            key,
            is_root: signer.is_none(),
        }
    }
}

fn public(keys: &Key) -> Vec<u8> {
    let (algorithm, key) = match keys {
        Key::P256(keys) => (
            [der(OID, &[EC_KEY]), der(OID, &[P256])].concat(),
            keys.public_key().as_ref(),
        ),
        Key::Edwards(keys) => (der(OID, &[ED25519]), keys.public_key().as_ref()),
    };
    let algorithm = der(SEQUENCE, &[&algorithm]);
    der(SEQUENCE, &[&algorithm, &der(BITS, &[&[0], key])])
}

fn subject(name: &str) -> Vec<u8> {
    let name = [der(OID, &[COMMON_NAME]), der(TEXT, &[name.as_bytes()])].concat();
    der(SEQUENCE, &[&der(SET, &[&der(SEQUENCE, &[&name])])])
}

fn extensions(wish: Wish<'_>) -> Vec<u8> {
    let host = der(SEQUENCE, &[&der(0x82, &[wish.name.as_bytes()])]);
    let mut all = der(SEQUENCE, &[&der(OID, &[ALT_NAME]), &der(OCTETS, &[&host])]);
    if wish.authority {
        let says = der(OCTETS, &[&der(SEQUENCE, &[TRUE])]);
        all.extend(der(SEQUENCE, &[&der(OID, &[CONSTRAINTS]), TRUE, &says]));
    }
    all
}

/// One value of ASN.1.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    let head = match content.len() {
        0..0x80 => vec![tag, length[1]],
        0x80..0x100 => vec![tag, 0x81, length[1]],
        _ => vec![tag, 0x82, length[0], length[1]],
    };
    [head, content].concat()
}

fn pem(label: &str, der: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in der.chunks(48) {
        for three in line.chunks(3) {
            let bits = (0..3).fold(0, |bits, place| {
                bits << 8 | usize::from(three.get(place).copied().unwrap_or(0))
            });
            for place in 0..4 {
                let letter = char::from(LETTERS[bits >> (18 - 6 * place) & 63]);
                text.push(if place <= three.len() { letter } else { '=' });
            }
        }
        text.push('\n');
    }
    writeln!(text, "-----END {label}-----").unwrap();
    text
}
