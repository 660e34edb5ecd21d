//! What the handshakes with the game servers of one upstream are made with.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::{ClientConfig, Resumption, UnbufferedClientConnection};
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use rustls::version::{TLS12, TLS13};

use super::handshake::Connection;
use super::server::pair;
use super::verify::{Anybody, OfGameServers, PemError, certificates, roots};
use super::{Failure, Tls, provider};

/// Ready for handshakes.
pub struct Client(Arc<ClientConfig>);

impl Client {
    /// Reads the PEM. `trusted`: authorities, none: those of the system; None: whoever answers is taken.
    /// `shown`: to who asks for a certificate.
    ///
    /// # Errors
    ///
    /// What of it rustls does not take.
    pub fn new(trusted: Option<&[String]>, shown: Option<(&str, &str)>) -> Result<Self, PemError> {
        let refused = |error: &dyn std::fmt::Display| PemError(error.to_string());
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|error| refused(&error))?;
        let builder = match trusted {
            None => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anybody)),
            Some([]) => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(OfGameServers::new(
                    of_the_system(),
                    Vec::new(),
                )?)),
            Some(pems) => {
                let trusted: Result<Vec<_>, _> = pems.iter().map(|pem| certificates(pem)).collect();
                let trusted = trusted?.concat();
                builder
                    .dangerous()
                    .with_custom_certificate_verifier(Arc::new(OfGameServers::new(
                        roots(&trusted)?,
                        trusted,
                    )?))
            }
        };
        let mut config = match shown {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let shown = SingleCertAndKey::from(pair(chain, key)?);
                builder.with_client_cert_resolver(Arc::new(shown))
            }
        };
        config.resumption = Resumption::disabled();
        config.enable_secret_extraction = true; // for what comes behind the handshake
        Ok(Self(Arc::new(config)))
    }

    /// The client's side of a handshake that is to begin. `peer`: a name, which is asked for, or an address, which is not.
    ///
    /// # Errors
    ///
    /// Where it is neither.
    pub fn connect(&self, peer: &str) -> Result<Tls, Failure> {
        let name = ServerName::try_from(peer.to_owned());
        let name = name.map_err(|error| Failure::other(error.to_string()))?;
        let client = UnbufferedClientConnection::new(Arc::clone(&self.0), name);
        let client = client.map_err(|error| Failure::new(&error, &[]))?;
        Ok(Tls::new(Connection::Client(client)))
    }
}

/// Those that cannot be read are left out, as elsewhere.
fn of_the_system() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}
