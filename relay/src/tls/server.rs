//! What the handshakes with players of one ssl object are made with.

use std::sync::Arc;

use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerConfig,
    UnbufferedServerConnection,
};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};

use super::handshake::Connection;
use super::tickets::Tickets;
use super::verify::{OfPlayers, PemError, certificates};
use super::{Failure, Tls, provider};

/// An ssl object, as far as handshakes go.
pub struct Offer<'a> {
    /// Certificate chains and their keys, in PEM.
    pub pairs: Vec<(&'a str, &'a str)>,
    /// TLS 1.2, TLS 1.3; one at least.
    pub versions: (bool, bool),
    /// In PEM: a client certificate from it is required, with at most so many authorities between.
    pub client_ca: Option<(&'a str, usize)>,
    /// Application protocols, the best one first; none: whatever a client asks for is not answered.
    pub alpn: Vec<Vec<u8>>,
    /// What tickets are sealed under, the first one of these, and opened; none: there are no tickets.
    pub secrets: Vec<[u8; 32]>,
}

/// Ready for handshakes; a copy is the same one.
#[derive(Clone)]
pub struct Server(Arc<ServerConfig>);

impl Server {
    /// Reads the PEM.
    ///
    /// # Errors
    ///
    /// What of it rustls does not take.
    pub fn new(offer: Offer<'_>) -> Result<Self, PemError> {
        let versions: &[_] = match offer.versions {
            (true, true) => &[&TLS13, &TLS12],
            (true, false) => &[&TLS12],
            (false, true) => &[&TLS13],
            (false, false) => return Err(PemError("neither TLS 1.2 nor TLS 1.3".into())),
        };
        let mut pairs: Vec<Arc<CertifiedKey>> = Vec::new();
        for (chain, key) in offer.pairs {
            let pair = pair(chain, key)?;
            pairs.retain(|one| one.key.algorithm() != pair.key.algorithm());
            pairs.push(pair);
        }
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .map_err(|error| PemError(error.to_string()))?;
        let builder = match offer.client_ca {
            None => builder.with_no_client_auth(),
            Some((ca, depth)) => {
                builder.with_client_cert_verifier(Arc::new(OfPlayers::new(ca, depth)?))
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(Pairs(pairs)));
        config.alpn_protocols = offer.alpn;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = Arc::new(Tickets::new(offer.secrets));
        config.send_tls13_tickets = 1; // a player comes back once, and has the next one then
        config.max_early_data_size = 0; // it could be played twice (RFC 8446 section 8)
        config.enable_secret_extraction = true; // for what comes behind the handshake
        Ok(Self(Arc::new(config)))
    }

    /// The server's side of a handshake that is to begin.
    ///
    /// # Errors
    ///
    /// As rustls has them.
    pub fn accept(&self) -> Result<Tls, Failure> {
        let server = UnbufferedServerConnection::new(Arc::clone(&self.0));
        let server = server.map_err(|error| Failure::new(&error, &[]))?;
        Ok(Tls::new(Connection::Server(server)))
    }
}

pub(super) fn pair(chain: &str, key: &str) -> Result<Arc<CertifiedKey>, PemError> {
    let refused = |error: &dyn std::fmt::Display| PemError(error.to_string());
    let chain = certificates(chain)?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| refused(&error))?;
    let loaded = provider().key_provider.load_private_key(key);
    let loaded = loaded.map_err(|error| refused(&error))?;
    let pair = CertifiedKey::new(chain, loaded);
    pair.keys_match().map_err(|error| refused(&error))?;
    Ok(Arc::new(pair))
}

/// Certificates for the same names, one for each kind of key: the last one that there is.
#[derive(Debug)]
struct Pairs(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for Pairs {
    /// The one that the client likes best; where it can check none, rustls finds that out and says so.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let schemes = hello.signature_schemes().iter();
        let found = schemes.copied().find_map(|scheme| {
            let fits = |one: &&Arc<CertifiedKey>| one.key.choose_scheme(&[scheme]).is_some();
            self.0.iter().find(fits)
        });
        found.or(self.0.first()).map(Arc::clone)
    }
}
