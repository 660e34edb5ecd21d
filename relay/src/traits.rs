//! What is worth counting of a `ClientHello` beside its name. Nothing is decided by it.

use crate::hello::{Bytes, GROUPS, HELLO_HEADER, KEY_SHARE, RANDOM, RECORD_HEADER};

const ECH: u16 = 0xfe0d;
const POST_QUANTUM: [u16; 4] = [0x11ec, 0x11eb, 0x11ed, 0x6399]; // three ML-KEM hybrids, one Kyber draft

/// What else is worth counting of a hello.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traits {
    /// A post-quantum group is offered, with a key share or without.
    pub post_quantum: bool,
    /// The name that matters is encrypted, or something that looks like it.
    pub ech: bool,
}

/// Of the bytes that `read` has found a name in; of others nothing is claimed.
#[must_use]
pub fn read(bytes: &[u8]) -> Traits {
    let mut traits = Traits::default();
    let message = bytes.get(RECORD_HEADER + HELLO_HEADER..);
    if let Some(hello) = message {
        _ = look(hello, &mut traits);
    }
    traits
}

/// None once it is no hello that `read` would take.
fn look(hello: &[u8], traits: &mut Traits) -> Option<()> {
    let mut bytes = Bytes(hello);
    bytes.take(2 + RANDOM)?;
    bytes.small()?;
    bytes.large()?;
    bytes.small()?;
    let mut extensions = Bytes(bytes.large()?);
    while !extensions.is_empty() {
        let kind = extensions.short()?;
        let mut body = Bytes(extensions.large()?);
        match kind {
            ECH => traits.ech = true,
            GROUPS => {
                let mut groups = Bytes(body.large()?);
                while !groups.is_empty() {
                    traits.post_quantum |= POST_QUANTUM.contains(&groups.short()?);
                }
            }
            KEY_SHARE => {
                let mut shares = Bytes(body.large()?);
                while !shares.is_empty() {
                    traits.post_quantum |= POST_QUANTUM.contains(&shares.short()?);
                    shares.large()?;
                }
            }
            _ => {}
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap();
        [&length.to_be_bytes()[..], body].concat()
    }

    fn hello(extensions: &[(u16, &[u8])]) -> Vec<u8> {
        let all = extensions
            .iter()
            .map(|&(kind, body)| [&kind.to_be_bytes()[..], &vector(body)].concat());
        let block = vector(&all.collect::<Vec<_>>().concat());
        let members = b"\x00\x00\x02\x13\x01\x01\x00";
        let headers = [0; RECORD_HEADER + HELLO_HEADER];
        [&headers[..], b"\x03\x03", &[7; RANDOM], members, &block].concat()
    }

    #[test]
    fn traits_are_found_wherever_they_stand() {
        let (classic, hybrid): (&[u8], &[u8]) = (b"\x00\x02\x00\x1d", b"\x00\x04\x00\x1d\x11\xec");
        let share: &[u8] = b"\x00\x0a\x00\x1d\x00\x01\x07\x63\x99\x00\x01\x07";
        for (extensions, post_quantum, ech) in [
            (vec![(0_u16, &b"name"[..])], false, false),
            (vec![(GROUPS, classic)], false, false),
            (vec![(GROUPS, hybrid)], true, false),
            (vec![(GROUPS, classic), (KEY_SHARE, share)], true, false),
            (vec![(ECH, b"")], false, true),
            (vec![(ECH, b"any"), (GROUPS, hybrid)], true, true),
        ] {
            let expected = Traits { post_quantum, ech };
            assert_eq!(read(&hello(&extensions)), expected, "{extensions:?}");
        }
    }

    #[test]
    fn what_is_cut_off_claims_nothing_and_harms_nobody() {
        let whole = hello(&[(GROUPS, b"\x00\x04\x00\x1d\x11\xec"), (ECH, b"any")]);
        for size in 0..whole.len() {
            assert!(!read(&whole[..size]).ech, "{size} bytes");
        }
    }
}
