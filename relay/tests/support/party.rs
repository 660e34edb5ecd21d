//! Who speaks TLS without sockets: by the relay's own TLS, or by rustls's other interface, which keeps buffers of its own.

#![allow(dead_code, reason = "every test binary uses a part of it")]

use std::io::{Read, Write};
use std::sync::Arc;

use _relay::scratch::Scratch;
use _relay::tls::{Client, Failure, Offer, Server, Tls};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme,
    SupportedProtocolVersion,
};

use super::certificates::{Paper, Wish};

/// The name for which the servers of the tests have a certificate.
pub const NAME: &str = "game.example";

/// One side's TLS, what it has heard, and what it has to send.
pub struct Party {
    /// Not in a session.
    pub tls: Tls,
    /// In clear.
    pub heard: Vec<u8>,
    /// Records.
    pub out: Vec<u8>,
    /// Why it has ended before its time.
    pub failure: Option<Failure>,
}

impl Party {
    /// Says its first words, where they are its to say.
    pub fn new(tls: Tls) -> Self {
        let mut party = Self {
            tls,
            heard: Vec::new(),
            out: Vec::new(),
            failure: None,
        };
        if party.tls.begins() {
            party.hear(b"");
        }
        party
    }

    /// Takes in records.
    pub fn hear(&mut self, records: &[u8]) {
        let (mut clear, mut out) = (Scratch::default(), Scratch::default());
        let went = self.tls.receive_all(records, &mut clear, &mut out);
        self.heard.extend_from_slice(&clear);
        self.out.extend_from_slice(&out);
        if let Err(failure) = went {
            self.failure.get_or_insert(failure);
        }
    }

    /// Puts bytes into records.
    pub fn say(&mut self, bytes: &[u8]) {
        self.write(|tls, out| tls.encrypt(bytes, out)).unwrap();
    }

    /// Says that nothing more comes.
    pub fn close(&mut self) {
        self.write(Tls::close).unwrap();
    }

    /// Lets it write something.
    pub fn write(
        &mut self,
        write: impl FnOnce(&mut Tls, &mut Scratch) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut out = Scratch::default();
        let written = write(&mut self.tls, &mut out);
        self.out.extend_from_slice(&out);
        written
    }

    /// What it has to send.
    pub fn sends(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }
}

/// Each hears what the other sends, in pieces, until both are silent.
pub fn converse(one: &mut Party, other: &mut Party, mut piece: impl FnMut() -> usize) {
    while !one.out.is_empty() || !other.out.is_empty() {
        carry(one, other, &mut piece);
        carry(other, one, &mut piece);
    }
}

fn carry(from: &mut Party, to: &mut Party, mut piece: impl FnMut() -> usize) {
    let records = from.sends();
    let mut left = &records[..];
    while !left.is_empty() && to.failure.is_none() {
        let (now, later) = left.split_at(piece().min(left.len()));
        to.hear(now);
        left = later;
    }
}

/// A server for `NAME` that asks nobody for a certificate.
pub fn offer(paper: &Paper) -> Offer<'_> {
    Offer {
        pairs: vec![paper.pair()],
        versions: (true, true),
        client_ca: None,
        alpn: Vec::new(),
        secrets: Vec::new(),
    }
}

/// A server and a client that takes anybody, both before the handshake.
pub fn strangers(versions: (bool, bool)) -> (Party, Party) {
    let paper = Paper::signed_by_itself(Wish::host(NAME));
    let server = Server::new(Offer {
        versions,
        ..offer(&paper)
    });
    let client = Client::new(None, None).unwrap().connect(NAME).unwrap();
    let server = server.unwrap().accept().unwrap();
    (Party::new(client), Party::new(server))
}

/// The same after it: client and server.
pub fn friends(versions: (bool, bool)) -> (Party, Party) {
    let (mut client, mut server) = strangers(versions);
    converse(&mut client, &mut server, || usize::MAX);
    assert!(!client.tls.is_handshaking() && !server.tls.is_handshaking());
    (client, server)
}

/// Takes anybody who can sign in one of these ways.
#[derive(Debug)]
struct Anybody(Vec<SignatureScheme>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}

/// What a player's own TLS is made with; `shown`: to who asks for a certificate.
pub fn player_config(
    versions: &[&'static SupportedProtocolVersion],
    schemes: &[SignatureScheme],
    shown: Option<&Paper>,
) -> ClientConfig {
    player_config_of(default_provider(), versions, schemes, shown)
}

/// The same with ciphers of its own.
pub fn player_config_of(
    provider: CryptoProvider,
    versions: &[&'static SupportedProtocolVersion],
    schemes: &[SignatureScheme],
    shown: Option<&Paper>,
) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(schemes.to_vec())));
    let Some(paper) = shown else {
        return builder.with_no_client_auth();
    };
    let chain = CertificateDer::pem_slice_iter(paper.chain.as_bytes());
    let key = PrivateKeyDer::from_pem_slice(paper.key.as_bytes()).unwrap();
    builder
        .with_client_auth_cert(chain.map(Result::unwrap).collect(), key)
        .unwrap()
}

/// A player who asks for `NAME`.
pub fn player(config: &Arc<ClientConfig>) -> ClientConnection {
    let name = ServerName::try_from(NAME).unwrap();
    ClientConnection::new(Arc::clone(config), name).unwrap()
}

/// Player and server hear each other until both are silent; what the player has heard.
pub fn talk(player: &mut ClientConnection, server: &mut Party) -> Result<Vec<u8>, Error> {
    let mut heard = Vec::new();
    while player.wants_write() || !server.out.is_empty() {
        let mut said = Vec::new();
        while player.wants_write() {
            player.write_tls(&mut said).unwrap();
        }
        server.hear(&said);
        let records = server.sends();
        let mut left = &records[..];
        while !left.is_empty() && player.read_tls(&mut left).unwrap() > 0 {
            let went = player.process_new_packets();
            let _ = player.reader().read_to_end(&mut heard); // until there is no more now
            went?;
        }
    }
    Ok(heard)
}

/// Says it and is heard; what came meanwhile.
pub fn tell(player: &mut ClientConnection, server: &mut Party, words: &[u8]) -> Vec<u8> {
    player.writer().write_all(words).unwrap();
    talk(player, server).unwrap()
}
