//! The key of one direction, under which records are sealed or opened, one after another.
//!
//! What is sealed or opened goes from one buffer to another in one pass: no byte is copied beside that.

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce,
    UnboundKey,
};
use aws_lc_rs::error::Unspecified;
use rustls::ConnectionTrafficSecrets;

use crate::scratch::Scratch;

/// Bytes in clear in one record (RFC 8446 section 5.1).
pub(super) const FRAGMENT: usize = 16 * 1024;
/// Bytes of a record's header: its kind, its version and its length.
pub(super) const HEADER: usize = 5;

const TAG: usize = 16; // of all three ciphers
const EXPLICIT: usize = 8; // RFC 5288 section 3
const SALT: usize = NONCE_LEN - EXPLICIT;
const APPLICATION_DATA: u8 = 23;

/// What records look like.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// The kind stands behind what is sealed (RFC 8446 section 5.2).
    Tls13,
    /// A part of the nonce stands before it (RFC 5288 section 3).
    Gcm,
    /// Neither (RFC 7905 section 2).
    ChaCha,
}

/// Why a record cannot be opened.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unopened {
    /// It was not sealed so.
    Forged,
    /// There is more in it than there may be.
    Oversized,
    /// It does not say what kind it is.
    Kindless,
}

pub(super) struct Key {
    cipher: LessSafeKey,
    iv: [u8; NONCE_LEN],
    form: Form,
    /// How many records it has been used for.
    pub(super) records: u64,
}

impl Key {
    /// `records`: how many it has been used for. None: it is no key that we know.
    pub(super) fn new(
        (records, secrets): (u64, ConnectionTrafficSecrets),
        is_1_3: bool,
    ) -> Option<Self> {
        use ConnectionTrafficSecrets as Secrets;
        let (algorithm, key, iv, form): (&'static Algorithm, _, _, _) = match secrets {
            Secrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv, Form::Gcm),
            Secrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv, Form::Gcm),
            Secrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv, Form::ChaCha),
            _ => return None,
        };
        Some(Self {
            cipher: LessSafeKey::new(UnboundKey::new(algorithm, key.as_ref()).ok()?),
            iv: iv.as_ref().try_into().ok()?,
            form: if is_1_3 { Form::Tls13 } else { form },
            records,
        })
    }

    /// Puts a record behind what is in `out`; of at most `FRAGMENT` bytes.
    pub(super) fn seal(
        &mut self,
        kind: u8,
        clear: &[u8],
        out: &mut Scratch,
    ) -> Result<(), Unspecified> {
        let (outer, explicit, inner) = match self.form {
            Form::Tls13 => (APPLICATION_DATA, 0, &[kind][..]),
            Form::Gcm => (kind, EXPLICIT, &[][..]),
            Form::ChaCha => (kind, 0, &[][..]),
        };
        let length = explicit + clear.len() + inner.len() + TAG;
        let header = header(outer, [3, 3], length).ok_or(Unspecified)?;
        let nonce = self.nonce();
        out.extend_from_slice(&header);
        out.extend_from_slice(&nonce[NONCE_LEN - explicit..]);
        let sealed = out.grow(length - explicit);
        let (text, tag) = sealed.split_at_mut(clear.len());
        let (vouched, count) = self.vouched(header, clear.len());
        let nonce = Nonce::assume_unique_for_key(nonce);
        let aad = Aad::from(&vouched[..count]);
        self.cipher
            .seal_out_of_place_scatter(nonce, aad, clear, text, inner, tag)?;
        self.records += 1;
        Ok(())
    }

    /// Puts what is in a record behind what is in `clear`; what kind it is.
    pub(super) fn open(
        &mut self,
        header: [u8; HEADER],
        body: &[u8],
        clear: &mut Scratch,
    ) -> Result<u8, Unopened> {
        let (explicit, body) = match self.form {
            Form::Gcm => body.split_at_checked(EXPLICIT).ok_or(Unopened::Forged)?,
            Form::Tls13 | Form::ChaCha => (&[][..], body),
        };
        let size = body.len().checked_sub(TAG).ok_or(Unopened::Forged)?;
        let (text, tag) = body.split_at(size);
        let mut nonce = self.nonce();
        if !explicit.is_empty() {
            nonce[..SALT].copy_from_slice(&self.iv[..SALT]);
            nonce[SALT..].copy_from_slice(explicit);
        }
        let start = clear.len();
        let (vouched, count) = self.vouched(header, size);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let aad = Aad::from(&vouched[..count]);
        let opened = self
            .cipher
            .open_separate_gather(nonce, aad, text, tag, clear.grow(size))
            .map_err(|Unspecified| Unopened::Forged)
            .and_then(|()| match self.form {
                Form::Tls13 => unpad(clear, start),
                Form::Gcm | Form::ChaCha => Ok(header[0]),
            })
            .and_then(|kind| {
                let sound = clear.len() - start <= FRAGMENT;
                sound.then_some(kind).ok_or(Unopened::Oversized)
            });
        if opened.is_ok() {
            self.records += 1;
        } else {
            clear.truncate(start);
        }
        opened
    }

    /// RFC 8446 section 5.3; in TLS 1.2 this is one way of several to have another one for each record.
    fn nonce(&self) -> [u8; NONCE_LEN] {
        let mut nonce = self.iv;
        for (byte, number) in nonce[SALT..].iter_mut().zip(self.records.to_be_bytes()) {
            *byte ^= number;
        }
        nonce
    }

    /// What is vouched for beside what is sealed, and its length: RFC 8446 section 5.2, RFC 5246 section 6.2.3.3.
    fn vouched(&self, header: [u8; HEADER], size: usize) -> ([u8; 13], usize) {
        let mut vouched = [0; 13];
        if self.form == Form::Tls13 {
            vouched[..HEADER].copy_from_slice(&header);
            return (vouched, HEADER);
        }
        vouched[..8].copy_from_slice(&self.records.to_be_bytes());
        vouched[8..11].copy_from_slice(&header[..3]);
        // It is less than the length of the record, which is one of two bytes.
        vouched[11..].copy_from_slice(&u16::try_from(size).unwrap_or(u16::MAX).to_be_bytes());
        (vouched, 13)
    }
}

fn header(kind: u8, version: [u8; 2], length: usize) -> Option<[u8; HEADER]> {
    let [high, low] = u16::try_from(length).ok()?.to_be_bytes();
    Some([kind, version[0], version[1], high, low])
}

/// Takes padding and kind away from what was in a record of TLS 1.3; the kind.
fn unpad(clear: &mut Scratch, start: usize) -> Result<u8, Unopened> {
    if clear.len() - start > FRAGMENT + 1 {
        return Err(Unopened::Oversized);
    }
    let last = clear[start..].iter().rposition(|&byte| byte != 0);
    let last = start + last.ok_or(Unopened::Kindless)?;
    let kind = clear[last];
    clear.truncate(last);
    Ok(kind)
}
