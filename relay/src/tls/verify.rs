//! Whose certificate is good: that of a player, of whom an ssl object asks one, and that of a game server.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

use super::provider;

/// PEM that cannot be used, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PemError(pub String);

impl fmt::Display for PemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for PemError {}

/// The certificates in PEM text, in their order.
pub(super) fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match read {
        Ok(found) if found.is_empty() => Err(PemError("no certificate in it".into())),
        Ok(found) => Ok(found),
        Err(error) => Err(PemError(error.to_string())),
    }
}

/// Those who are trusted.
pub(super) fn roots(trusted: &Trusted) -> Result<RootCertStore, PemError> {
    let mut roots = RootCertStore::empty();
    for certificate in trusted {
        let added = roots.add(certificate.clone());
        added.map_err(|error| PemError(error.to_string()))?;
    }
    Ok(roots)
}

/// What webpki finds wrong that others do not, or name otherwise. `trusted`: certificates, each of which is good by itself.
///
/// Who signs his certificate himself, as most tools do it by themselves, has one of an authority. It is his own if just that is
/// trusted. All that is wrong with the way to an authority means that none of ours is found.
fn judged(error: Error, end_entity: &CertificateDer<'_>, trusted: &Trusted) -> Result<(), Error> {
    let Error::InvalidCertificate(CertificateError::Other(OtherError(why))) = &error else {
        return Err(error);
    };
    match why.downcast_ref::<webpki::Error>() {
        // Its time was looked at before this.
        Some(webpki::Error::CaUsedAsEndEntity) if trusted.contains(end_entity) => Ok(()),
        Some(
            webpki::Error::CaUsedAsEndEntity
            | webpki::Error::EndEntityUsedAsCa
            | webpki::Error::PathLenConstraintViolated
            | webpki::Error::NameConstraintViolation,
        ) => Err(CertificateError::UnknownIssuer.into()),
        _ => Err(error),
    }
}

/// Certificates that were given to be trusted.
type Trusted = [CertificateDer<'static>];

/// Of signatures a verifier thinks as the one that it has inside.
macro_rules! signatures_by_the_inner_one {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.inner
                .verify_tls12_signature(message, certificate, signed)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.inner
                .verify_tls13_signature(message, certificate, signed)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.inner.supported_verify_schemes()
        }
    };
}

/// Takes players' certificates from an authority, with at most so many other authorities between the two.
#[derive(Debug)]
pub(super) struct OfPlayers {
    inner: Arc<dyn ClientCertVerifier>,
    roots: Arc<RootCertStore>,
    trusted: Vec<CertificateDer<'static>>,
    depth: usize,
}

impl OfPlayers {
    pub(super) fn new(ca: &str, depth: usize) -> Result<Self, PemError> {
        let trusted = certificates(ca)?;
        let roots = Arc::new(roots(&trusted)?);
        let inner = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), provider());
        let inner = inner.build().map_err(|error| PemError(error.to_string()))?;
        Ok(Self {
            inner,
            roots,
            trusted,
            depth,
        })
    }

    /// How many authorities there are between, on the way that has the fewest.
    fn check_depth(
        &self,
        end_entity: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        if between.len() <= self.depth {
            return Ok(()); // no way is longer
        }
        let fewest = std::cell::Cell::new(usize::MAX);
        let measure = |path: &VerifiedPath<'_>| {
            let count = path.intermediate_certificates().count();
            fewest.set(fewest.get().min(count));
            if count <= self.depth {
                Ok(())
            } else {
                Err(webpki::Error::UnknownIssuer) // look for another way
            }
        };
        let algorithms = provider().signature_verification_algorithms;
        let found = EndEntityCert::try_from(end_entity).and_then(|one| {
            let roots = &self.roots.roots;
            let usage = KeyUsage::client_auth();
            let path = one.verify_for_usage(
                algorithms.all,
                roots,
                between,
                now,
                usage,
                None,
                Some(&measure),
            );
            path.map(|_| ())
        });
        found.map_err(|_| {
            let why = format!(
                "{} authorities below client.ca, client.depth is {}",
                fewest.get(),
                self.depth
            );
            CertificateError::Other(OtherError(Arc::new(PemError(why)))).into()
        })
    }
}

impl ClientCertVerifier for OfPlayers {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self
            .inner
            .verify_client_cert(end_entity, intermediates, now);
        match verified {
            Ok(_) => self.check_depth(end_entity, intermediates, now)?,
            Err(error) => judged(error, end_entity, &self.trusted)?,
        }
        Ok(ClientCertVerified::assertion())
    }

    signatures_by_the_inner_one!();
}

/// Takes game servers' certificates for their names, from authorities.
#[derive(Debug)]
pub(super) struct OfGameServers {
    inner: Arc<WebPkiServerVerifier>,
    trusted: Vec<CertificateDer<'static>>,
}

impl OfGameServers {
    pub(super) fn new(
        roots: RootCertStore,
        trusted: Vec<CertificateDer<'static>>,
    ) -> Result<Self, PemError> {
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider());
        let inner = inner.build().map_err(|error| PemError(error.to_string()))?;
        Ok(Self { inner, trusted })
    }
}

impl ServerCertVerifier for OfGameServers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.inner.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        if let Err(error) = verified {
            judged(error, end_entity, &self.trusted)?;
            verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    signatures_by_the_inner_one!();
}

/// Takes any game server that has the key of the certificate that it shows: nobody asked who it is.
#[derive(Debug)]
pub(super) struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = provider().signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}
