//! TLS on one side of a session: records in, bytes in clear out, and the other way round. It knows neither sockets nor clocks.
//!
//! `handshake` is rustls's part. From its end on `records` opens and seals, under the `keys` that were agreed upon: from one
//! buffer to another, which all sessions of a thread share, so that of an idle session only the keys are kept. `server` and
//! `client` are what handshakes are made with, once for each object of the configuration; `tickets` let players come back,
//! `verify` says whose certificate is good, `failure` says what went wrong in words.

mod client;
mod failure;
mod handshake;
mod keys;
mod records;
mod server;
mod tickets;
mod verify;

use std::sync::{Arc, OnceLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};

use crate::scratch::Scratch;

use self::handshake::{Connection, Handshake};
use self::records::Records;

pub use self::client::Client;
pub use self::failure::{Alert, Failure};
pub use self::server::{Offer, Server};
pub use self::verify::PemError;

/// Bytes that are kept at most of a record, or a message of many records, that is not whole. rustls takes no message of more
/// than 64 KiB, but keeps the records that it came in, which are more where they are small.
pub const REST: usize = 96 * 1024;
const FAILED: &str = "TLS has failed before";

/// One TLS connection, in which we are the server or the client.
pub struct Tls {
    /// Until it is over.
    handshake: Option<Box<Handshake>>,
    /// From then on.
    records: Option<Records>,
    agreed: Box<Agreed>,
    /// What came of a record or a message whose rest is still to come.
    rest: Vec<u8>,
    /// In clear, and not handed on yet.
    clear: Vec<u8>,
    /// Records of the handshake that the socket did not take yet.
    pub(crate) owed: Vec<u8>,
    /// What came, or was to go, was wrong: nothing comes or goes after that.
    failed: bool,
}

/// What the two have agreed upon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Agreed {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// As `OpenSSL` spells it.
    pub cipher: &'static str,
    /// The application protocol.
    pub alpn: Option<Vec<u8>>,
    /// Whether it goes on from an earlier session.
    pub resumed: bool,
    /// What the peer has shown, in DER.
    pub certificate: Option<Vec<u8>>,
}

/// The one for all.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(aws_lc_rs::default_provider())))
}

impl Tls {
    fn new(connection: Connection) -> Self {
        Self {
            handshake: Some(Box::new(Handshake::new(connection))),
            records: None,
            agreed: Box::default(),
            rest: Vec::new(),
            clear: Vec::new(),
            owed: Vec::new(),
            failed: false,
        }
    }

    /// Whether the handshake is still on.
    #[must_use]
    pub fn is_handshaking(&self) -> bool {
        self.records.is_none()
    }

    /// Whether ours is the first word.
    #[must_use]
    pub fn begins(&self) -> bool {
        self.handshake.as_ref().is_some_and(|one| one.begins())
    }

    /// Whether the peer has said that nothing more comes.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.records.as_ref().is_some_and(|records| records.ended)
    }

    /// Whether we have said so.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.records.as_ref().is_some_and(|records| records.closed)
    }

    /// Bytes that are kept.
    #[must_use]
    pub fn held(&self) -> usize {
        let message = self.records.as_ref().map_or(0, Records::held);
        self.rest.capacity() + self.clear.capacity() + message
    }

    /// Whether there is something in clear.
    #[must_use]
    pub fn has_clear(&self) -> bool {
        !self.clear.is_empty()
    }

    /// What there is in clear, at most so many bytes of it, taken out.
    pub fn take_clear(&mut self, most: usize) -> Vec<u8> {
        if self.clear.len() <= most {
            return std::mem::take(&mut self.clear);
        }
        let left = self.clear.split_off(most);
        std::mem::replace(&mut self.clear, left)
    }

    /// Keeps bytes in clear that could not be handed on: the first ones to be taken out.
    pub fn keep_clear(&mut self, bytes: &[u8]) {
        debug_assert!(self.clear.is_empty());
        self.clear.extend_from_slice(bytes);
    }

    /// Where what is kept of an unfinished record goes before more is read behind it: bytes that are there.
    pub fn put_rest(&mut self, buffer: &mut [u8]) -> usize {
        let count = self.rest.len();
        buffer[..count].copy_from_slice(&self.rest);
        count
    }

    /// Takes in what came, behind what `put_rest` has put there: bytes in clear go to `clear`, answers to `out`.
    ///
    /// What is not whole yet is kept. Nothing is taken in any more once the peer has ended.
    ///
    /// # Errors
    ///
    /// What was wrong; the alert is in `out`, and what was sound before it in `clear`. So is all that comes after that.
    pub fn receive(
        &mut self,
        incoming: &mut [u8],
        clear: &mut Scratch,
        out: &mut Scratch,
    ) -> Result<(), Failure> {
        if self.failed {
            return Err(Failure::other(FAILED));
        }
        let taken = self.take_in(incoming, clear, out);
        let used = taken.inspect_err(|_| self.give_up())?;
        let rest = if self.has_ended() {
            &[]
        } else {
            &incoming[used..]
        };
        if rest.is_empty() {
            self.rest = Vec::new();
        } else {
            self.rest.clear();
            self.rest.extend_from_slice(rest);
        }
        Ok(())
    }

    /// How many bytes were taken in.
    fn take_in(
        &mut self,
        incoming: &mut [u8],
        clear: &mut Scratch,
        out: &mut Scratch,
    ) -> Result<usize, Failure> {
        let mut used = 0;
        if let Some(handshake) = &mut self.handshake {
            used = handshake.receive(incoming, out)?;
            if !handshake.is_over() {
                if incoming.len() - used > REST {
                    return Err(Failure::other("a message in too many records"));
                }
                return Ok(used);
            }
            self.finish()?;
        }
        let Some(records) = &mut self.records else {
            return Ok(used);
        };
        let count = records.receive(&incoming[used..], clear, out)?;
        Ok(used + count)
    }

    /// Goes on from the handshake, which is over.
    fn finish(&mut self) -> Result<(), Failure> {
        let Some(handshake) = self.handshake.take() else {
            return Ok(());
        };
        let (records, agreed) = handshake.finish()?;
        self.records = Some(records);
        *self.agreed = agreed;
        Ok(())
    }

    /// The same of bytes that lie in no shared buffer.
    ///
    /// # Errors
    ///
    /// As `receive`.
    pub fn receive_all(
        &mut self,
        bytes: &[u8],
        clear: &mut Scratch,
        out: &mut Scratch,
    ) -> Result<(), Failure> {
        let mut incoming = std::mem::take(&mut self.rest);
        incoming.extend_from_slice(bytes);
        self.receive(&mut incoming, clear, out)
    }

    /// Encrypts, behind what is in `out`.
    ///
    /// # Errors
    ///
    /// Where nothing is left of what may be encrypted with one key, and in a handshake.
    pub fn encrypt(&mut self, bytes: &[u8], out: &mut Scratch) -> Result<(), Failure> {
        self.write(|records| records.encrypt(bytes, out))
    }

    /// Says that nothing more comes from us (`close_notify`, RFC 8446 section 6.1), behind what is in `out`.
    ///
    /// # Errors
    ///
    /// As `encrypt`.
    pub fn close(&mut self, out: &mut Scratch) -> Result<(), Failure> {
        self.write(|records| records.close(out))
    }

    fn write(
        &mut self,
        write: impl FnOnce(&mut Records) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        if self.failed {
            return Err(Failure::other(FAILED));
        }
        let Some(records) = &mut self.records else {
            return Err(Failure::other("the handshake is not over"));
        };
        write(records).inspect_err(|_| self.give_up())
    }

    /// Whether it is TLS 1.3, and not 1.2.
    #[must_use]
    pub fn is_1_3(&self) -> bool {
        self.agreed.version == "TLSv1.3"
    }

    /// Whether it goes on from an earlier session.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        self.agreed.resumed
    }

    /// What was agreed upon, once the handshake is over.
    #[must_use]
    pub fn agreed(&self) -> Agreed {
        Agreed::clone(&self.agreed)
    }

    fn give_up(&mut self) {
        self.failed = true;
        self.rest = Vec::new();
    }
}

/// As `OpenSSL` spells it.
fn cipher_name(suite: rustls::CipherSuite) -> &'static str {
    use rustls::CipherSuite as S;
    match suite {
        S::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        S::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        S::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        S::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => "ECDHE-ECDSA-AES128-GCM-SHA256",
        S::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => "ECDHE-ECDSA-AES256-GCM-SHA384",
        S::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-ECDSA-CHACHA20-POLY1305",
        S::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "ECDHE-RSA-AES128-GCM-SHA256",
        S::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "ECDHE-RSA-AES256-GCM-SHA384",
        S::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-RSA-CHACHA20-POLY1305",
        other => other.as_str().unwrap_or(""),
    }
}
