//! The name in a `ClientHello`, where there is no doubt about it.
//!
//! `sniproxy/client_hello.py` is the reader: it knows every rule, and a word for each that is broken. This one knows the
//! same rules for the hello that nearly every client sends, whole in one TLS record with a host name in it, and is `Unsure`
//! of all else, broken or sound: that goes to Python as it came. So it may refuse to say, and must never say anything else
//! than Python would (`tests/relay/test_native_hello.py` holds the two against each other).

/// What the first bytes of a stream are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// The start of what may become a hello.
    More,
    /// A sound hello: the name to route on, and the protocols that it offers (RFC 7301), each behind its length; `ALPN_KEPT`
    /// bytes of them.
    Name(String, Option<Box<[u8]>>),
    /// Something for Python.
    Unsure,
}

pub(crate) const RECORD_HEADER: usize = 5;
const MAX_RECORD: usize = 1 << 14;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
pub(crate) const HELLO_HEADER: usize = 4;
pub(crate) const RANDOM: usize = 32;
const MAX_SESSION_ID: usize = 32;
const TLS_1_0: u16 = 0x0301;
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;
const ALPN_KEPT: usize = 256; // bytes: as much as fills a log line's member (`accounting.py`)
const MOST_EXTENSIONS: usize = 64; // they are compared pairwise

const SERVER_NAME: u16 = 0;
pub(crate) const GROUPS: u16 = 10;
const ALPN: u16 = 16;
const VERSIONS: u16 = 43;
pub(crate) const KEY_SHARE: u16 = 51;

/// Reads what has come so far.
#[must_use]
pub fn read(bytes: &[u8]) -> Reading {
    // What has come must agree with a hello from the first byte on: Python refuses other protocols before they are whole.
    if !agrees(bytes, 0, HANDSHAKE) || !agrees(bytes, 1, 3) {
        return Reading::Unsure;
    }
    let Some((header, rest)) = bytes.split_at_checked(RECORD_HEADER) else {
        return Reading::More;
    };
    let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
    if !(HELLO_HEADER..=MAX_RECORD).contains(&length) || !agrees(rest, 0, CLIENT_HELLO) {
        return Reading::Unsure;
    }
    if rest.len() < HELLO_HEADER {
        return Reading::More;
    }
    let body = usize::from(rest[1]) << 16 | usize::from(rest[2]) << 8 | usize::from(rest[3]);
    if HELLO_HEADER + body != length {
        return Reading::Unsure; // over several records, or with something behind it
    }
    match rest.get(HELLO_HEADER..length) {
        None => Reading::More,
        Some(hello) => {
            name(hello).map_or(Reading::Unsure, |(name, alpn)| Reading::Name(name, alpn))
        }
    }
}

fn agrees(bytes: &[u8], at: usize, expected: u8) -> bool {
    bytes.get(at).is_none_or(|&byte| byte == expected)
}

/// The rest of a vector, from which pieces are taken.
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl<'a> Bytes<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub(crate) fn short(&mut self) -> Option<u16> {
        let two = self.take(2)?;
        Some(u16::from_be_bytes([two[0], two[1]]))
    }

    /// A vector with a length of one byte.
    pub(crate) fn small(&mut self) -> Option<&'a [u8]> {
        let length = self.take(1)?[0];
        self.take(usize::from(length))
    }

    /// A vector with a length of two bytes.
    pub(crate) fn large(&mut self) -> Option<&'a [u8]> {
        let length = self.short()?;
        self.take(usize::from(length))
    }
}

/// A vector that fills its parent.
fn whole<'a>(body: &'a [u8], read: fn(&mut Bytes<'a>) -> Option<&'a [u8]>) -> Option<&'a [u8]> {
    let mut bytes = Bytes(body);
    let inner = read(&mut bytes)?;
    bytes.is_empty().then_some(inner)
}

/// RFC 8446 4.1.2, RFC 5246 7.4.1.2: the hello without its header.
fn name(hello: &[u8]) -> Option<(String, Option<Box<[u8]>>)> {
    let mut bytes = Bytes(hello);
    if bytes.short()? < TLS_1_0 {
        return None;
    }
    bytes.take(RANDOM)?;
    if bytes.small()?.len() > MAX_SESSION_ID {
        return None;
    }
    let ciphers = bytes.large()?;
    if ciphers.is_empty() || ciphers.len() % 2 == 1 || bytes.small()?.is_empty() {
        return None;
    }
    let mut extensions = Bytes(whole(bytes.0, Bytes::large)?);
    let mut seen = [0; MOST_EXTENSIONS];
    let mut count = 0;
    let mut name = None;
    let mut alpn = None;
    while !extensions.is_empty() {
        let kind = extensions.short()?;
        let body = extensions.large()?;
        if count == MOST_EXTENSIONS || seen[..count].contains(&kind) {
            return None;
        }
        seen[count] = kind;
        count += 1;
        match kind {
            SERVER_NAME => name = Some(server_name(body)?),
            ALPN => alpn = Some(protocols(body)?),
            VERSIONS => shorts(whole(body, Bytes::small)?)?,
            GROUPS => shorts(whole(body, Bytes::large)?)?,
            KEY_SHARE => key_shares(body)?,
            _ => {}
        }
    }
    Some((name?, alpn))
}

/// RFC 6066 3: one entry of type `host_name`.
fn server_name(body: &[u8]) -> Option<String> {
    let mut list = Bytes(whole(body, Bytes::large)?);
    if list.take(1)? != [0] {
        return None;
    }
    let given = whole(list.0, Bytes::large)?;
    let given = given.strip_suffix(b".").unwrap_or(given);
    let name = given.to_ascii_lowercase();
    let is_sound = (1..=MAX_NAME).contains(&name.len()) && name.split(|&b| b == b'.').all(is_label);
    if !is_sound || is_number(name.rsplit(|&b| b == b'.').next()?) {
        return None;
    }
    String::from_utf8(name).ok()
}

fn is_label(label: &[u8]) -> bool {
    let legal = |&b: &u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
    (1..=MAX_LABEL).contains(&label.len()) && label.iter().all(legal)
}

/// A name whose last label is a number is an IP address, in some spelling.
fn is_number(label: &[u8]) -> bool {
    match label.strip_prefix(b"0x") {
        Some(digits) if digits.iter().all(u8::is_ascii_hexdigit) => true,
        _ => label.iter().all(u8::is_ascii_digit),
    }
}

/// RFC 7301 3.1: at least one protocol, none of them empty.
fn protocols(body: &[u8]) -> Option<Box<[u8]>> {
    let listed = whole(body, Bytes::large)?;
    let mut list = Bytes(listed);
    if list.is_empty() {
        return None;
    }
    while !list.is_empty() {
        if list.small()?.is_empty() {
            return None;
        }
    }
    Some(listed[..listed.len().min(ALPN_KEPT)].into())
}

fn shorts(list: &[u8]) -> Option<()> {
    (!list.is_empty() && list.len() & 1 == 0).then_some(())
}

fn key_shares(body: &[u8]) -> Option<()> {
    let mut list = Bytes(whole(body, Bytes::large)?);
    while !list.is_empty() {
        list.short()?;
        if list.large()?.is_empty() {
            return None;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAY: &str = "play.example.com";

    fn vector(width: usize, body: &[u8]) -> Vec<u8> {
        [&body.len().to_be_bytes()[8 - width..], body].concat()
    }

    fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &vector(2, body)].concat()
    }

    fn named(name: &[u8]) -> Vec<u8> {
        let entry = [&[0][..], &vector(2, name)].concat();
        extension(SERVER_NAME, &vector(2, &entry))
    }

    /// The message: TLS 1.2, no session, one cipher suite, and these extensions.
    fn message(extensions: &[Vec<u8>]) -> Vec<u8> {
        let members = b"\x00\x00\x02\x13\x01\x01\x00";
        let block = vector(2, &extensions.concat());
        let hello = [b"\x03\x03", &[7; RANDOM][..], members, &block].concat();
        [&[CLIENT_HELLO][..], &vector(3, &hello)].concat()
    }

    fn record(payload: &[u8]) -> Vec<u8> {
        [b"\x16\x03\x01", &vector(2, payload)[..]].concat()
    }

    /// A record with a hello for `PLAY`, and one extension before the name.
    fn beside(kind: u16, body: &[u8]) -> Vec<u8> {
        record(&message(&[extension(kind, body), named(PLAY.as_bytes())]))
    }

    fn is(name: &str) -> Reading {
        Reading::Name(name.into(), None)
    }

    #[test]
    fn names_are_found_or_left_to_python() {
        let long = "a.".repeat(126);
        let (label, longest) = ("a".repeat(63), long.clone() + "b");
        let table: [(&[u8], Option<&str>); 15] = [
            (b"play.example.com", Some(PLAY)),
            (b"PLAY.Example.Com.", Some(PLAY)),
            (b"_game.127.x--y", Some("_game.127.x--y")),
            (b"0x7f.0xg", Some("0x7f.0xg")),
            (label.as_bytes(), Some(&label)),
            (&[b'a'; 64], None),
            (&[long.as_bytes(), b"b."].concat(), Some(&longest)),
            (&[long.as_bytes(), b"bb"].concat(), None),
            (b"", None),
            (b"play.example.com..", None),
            (b"play..com", None),
            (b"127.0.0.1", None),
            (b"play.0X7F", None),
            (b"::1", None),
            (b"pl\xc3\xa4y.example", None),
        ];
        for (given, name) in table {
            let expected = name.map_or(Reading::Unsure, is);
            assert_eq!(
                read(&record(&message(&[named(given)]))),
                expected,
                "{given:?}"
            );
        }
    }

    #[test]
    fn sound_hellos_are_named() {
        let share = [b"\x00\x1d", &vector(2, &[7; 32])[..]].concat();
        let mut crowd = (100..100 + 63)
            .map(|kind| extension(kind, b""))
            .collect::<Vec<_>>();
        crowd.push(named(PLAY.as_bytes()));
        for (hello, what) in [
            (beside(0x0a0a, b"\x00"), "grease"),
            (beside(ALPN, b"\x00\x03\x02h2"), "protocols"),
            (beside(VERSIONS, b"\x04\x03\x04\x03\x03"), "versions"),
            (beside(GROUPS, b"\x00\x02\x00\x1d"), "groups"),
            (beside(KEY_SHARE, &vector(2, &share)), "key share"),
            (beside(KEY_SHARE, b"\x00\x00"), "no key share"),
            (record(&message(&crowd)), "64 extensions"),
            ([beside(35, b""), vec![0xff; 40]].concat(), "early data"),
        ] {
            let Reading::Name(name, _) = read(&hello) else {
                panic!("{what}: no name");
            };
            assert_eq!(name, PLAY, "{what}");
        }
    }

    #[test]
    fn the_rest_is_left_to_python() {
        let play = named(PLAY.as_bytes());
        let whole = message(std::slice::from_ref(&play));
        let mut crowd = (100..100 + 64)
            .map(|kind| extension(kind, b""))
            .collect::<Vec<_>>();
        crowd.push(play.clone());
        for (bytes, what) in [
            (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "another protocol"),
            (b"\x16\x02".to_vec(), "another record version"),
            (
                b"\x16\x03\x01\x00\x03".to_vec(),
                "a record that is too small",
            ),
            (
                b"\x16\x03\x01\x40\x01".to_vec(),
                "a record that is too large",
            ),
            (b"\x16\x03\x01\x00\x40\x02".to_vec(), "another message"),
            (
                [record(&whole[..50]), record(&whole[50..])].concat(),
                "two records",
            ),
            (
                record(&[&whole[..], b"\x00"].concat()),
                "a byte behind the hello",
            ),
            (record(&message(&[])), "no name"),
            (record(&message(&[play.clone(), play.clone()])), "two names"),
            (record(&message(&crowd)), "65 extensions"),
            (
                record(&message(&[play.clone(), vec![0]])),
                "half an extension",
            ),
            (beside(ALPN, b"\x00\x00"), "no protocol"),
            (beside(ALPN, b"\x00\x04\x02h2\x00"), "an empty protocol"),
            (beside(VERSIONS, b"\x03\x03\x04\x03"), "half a version"),
            (beside(GROUPS, b"\x00\x00"), "no group"),
            (
                beside(KEY_SHARE, b"\x00\x04\x00\x1d\x00\x00"),
                "an empty key share",
            ),
        ] {
            assert_eq!(read(&bytes), Reading::Unsure, "{what}");
        }
    }

    #[test]
    fn every_start_of_a_hello_asks_for_more() {
        let hello = beside(ALPN, b"\x00\x03\x02h2");
        for size in 0..hello.len() {
            assert_eq!(read(&hello[..size]), Reading::More, "{size} bytes");
        }
        let offered = Some(b"\x02h2"[..].into());
        assert_eq!(read(&hello), Reading::Name(PLAY.into(), offered));
    }
}
