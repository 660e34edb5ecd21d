//! TLS on one side of a session: records in, bytes in clear out, and the other way round. It knows neither sockets nor clocks.
//!
//! rustls's unbuffered interface keeps no buffer of its own: what came is decrypted where it lies, in a buffer that all
//! sessions of a thread share. Of an idle session only the keys are kept. `server` and `client` are what handshakes are made
//! with, once for each object of the configuration; `tickets` let players come back, `verify` says whose certificate is good,
//! `failure` says what went wrong in words.

mod client;
mod failure;
mod server;
mod steps;
mod tickets;
mod verify;

use std::sync::{Arc, OnceLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;
use rustls::unbuffered::EncryptError;
use rustls::{CommonState, HandshakeKind, ProtocolVersion};

pub use self::client::Client;
pub use self::failure::{Alert, Failure};
pub use self::server::{Offer, Server};
use self::steps::{Step, Traffic, step, write_step};
pub use self::verify::PemError;

/// Bytes of the largest record on the wire (RFC 8446 section 5.2; TLS 1.2 allows more, RFC 5246 section 6.2.3).
pub const RECORD: usize = 5 + 16 * 1024 + 2048;
/// Bytes that a record has beside those that it carries, at most.
const OVERHEAD: usize = 5 + 256;
/// Bytes in clear in one record.
const FRAGMENT: usize = 16 * 1024;

#[allow(clippy::large_enum_variant)] // both are large
enum Connection {
    Server(rustls::server::UnbufferedServerConnection),
    Client(rustls::client::UnbufferedClientConnection),
}

/// One TLS connection, in which we are the server or the client.
pub struct Tls {
    connection: Connection,
    /// What came of a record or a message whose rest is still to come.
    rest: Vec<u8>,
    /// In clear, and not handed on yet.
    clear: Vec<u8>,
    /// Records of the handshake that the socket did not take yet.
    pub(crate) owed: Vec<u8>,
    /// The peer has said that nothing more comes.
    ended: bool,
    /// We have.
    closed: bool,
    /// Something was received, or asked for.
    begun: bool,
}

/// What the two have agreed upon.
#[derive(Clone, Debug, PartialEq, Eq)]
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
            connection,
            rest: Vec::new(),
            clear: Vec::new(),
            owed: Vec::new(),
            ended: false,
            closed: false,
            begun: false,
        }
    }

    fn state(&self) -> &CommonState {
        match &self.connection {
            Connection::Server(server) => server,
            Connection::Client(client) => client,
        }
    }

    /// Whether the handshake is still on.
    #[must_use]
    pub fn is_handshaking(&self) -> bool {
        self.state().is_handshaking()
    }

    /// Whether ours is the first word.
    #[must_use]
    pub fn begins(&self) -> bool {
        matches!(self.connection, Connection::Client(_)) && !self.begun
    }

    /// Whether the peer has said that nothing more comes.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether we have said so.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Bytes that are kept.
    #[must_use]
    pub fn held(&self) -> usize {
        self.rest.capacity() + self.clear.capacity()
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
    /// What was wrong; the alert is in `out`, and what was sound before it in `clear`.
    pub fn receive(
        &mut self,
        incoming: &mut [u8],
        clear: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        self.begun = true;
        let mut used = 0;
        let went = loop {
            let left = &mut incoming[used..];
            let (count, stepped) = match &mut self.connection {
                Connection::Server(server) => step(server.process_tls_records(left), clear, out),
                Connection::Client(client) => step(client.process_tls_records(left), clear, out),
            };
            used += count;
            match stepped {
                Ok(Step::On) => {}
                Ok(Step::Ended) => self.ended = true,
                Ok(Step::Done) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        if let Err(error) = went {
            self.rest = Vec::new();
            return Err(self.fail(&error, out));
        }
        let rest = if self.ended { &[] } else { &incoming[used..] };
        if rest.is_empty() {
            self.rest = Vec::new();
        } else {
            self.rest.clear();
            self.rest.extend_from_slice(rest);
        }
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
        clear: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        let mut incoming = std::mem::take(&mut self.rest);
        incoming.extend_from_slice(bytes);
        self.receive(&mut incoming, clear, out)
    }

    /// Encrypts, behind what is in `out`.
    ///
    /// # Errors
    ///
    /// Where rustls has none left of what it may encrypt with one key.
    pub fn encrypt(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Failure> {
        let room = bytes.len() + bytes.len().div_ceil(FRAGMENT) * OVERHEAD;
        self.write(room, out, |traffic, room| traffic.encrypt(bytes, room))
    }

    /// Says that nothing more comes from us (`close_notify`, RFC 8446 section 6.1), behind what is in `out`.
    ///
    /// # Errors
    ///
    /// As `encrypt`.
    pub fn close(&mut self, out: &mut Vec<u8>) -> Result<(), Failure> {
        self.closed = true;
        self.write(OVERHEAD, out, |traffic, room| {
            traffic.queue_close_notify(room)
        })
    }

    fn write(
        &mut self,
        room: usize,
        out: &mut Vec<u8>,
        mut put: impl FnMut(&mut dyn Traffic, &mut [u8]) -> Result<usize, EncryptError>,
    ) -> Result<(), Failure> {
        // What is kept of the last record must lie before rustls as it did: it knows places in it.
        let mut rest = std::mem::take(&mut self.rest);
        let written = loop {
            let (_, stepped) = match &mut self.connection {
                Connection::Server(server) => {
                    write_step(server.process_tls_records(&mut rest), room, out, &mut put)
                }
                Connection::Client(client) => {
                    write_step(client.process_tls_records(&mut rest), room, out, &mut put)
                }
            };
            match stepped {
                Ok(false) => {}
                Ok(true) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.rest = rest;
        written.map_err(|error| self.fail(&error, out))
    }

    /// Whether it is TLS 1.3, and not 1.2.
    #[must_use]
    pub fn is_1_3(&self) -> bool {
        self.state().protocol_version() == Some(ProtocolVersion::TLSv1_3)
    }

    /// Whether it goes on from an earlier session.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        self.state().handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// What was agreed upon, once the handshake is over.
    #[must_use]
    pub fn agreed(&self) -> Agreed {
        let state = self.state();
        let shown = state.peer_certificates().and_then(<[_]>::first);
        Agreed {
            version: if self.is_1_3() { "TLSv1.3" } else { "TLSv1.2" },
            cipher: state
                .negotiated_cipher_suite()
                .map_or("", |suite| cipher_name(suite.suite())),
            alpn: state.alpn_protocol().map(<[u8]>::to_vec),
            resumed: self.is_resumed(),
            certificate: shown.map(|one: &CertificateDer<'_>| one.as_ref().to_vec()),
        }
    }

    /// In words; the alert that rustls would have us send goes behind what is in `out`.
    fn fail(&mut self, error: &rustls::Error, out: &mut Vec<u8>) -> Failure {
        let before = out.len();
        let nothing: &mut [u8] = &mut [];
        loop {
            let (_, stepped) = match &mut self.connection {
                Connection::Server(server) => {
                    step(server.process_tls_records(nothing), &mut Vec::new(), out)
                }
                Connection::Client(client) => {
                    step(client.process_tls_records(nothing), &mut Vec::new(), out)
                }
            };
            if !matches!(stepped, Ok(Step::On)) {
                break;
            }
        }
        failure::mend(error, &mut out[before..]);
        Failure::new(error, &out[before..])
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
