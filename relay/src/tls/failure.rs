//! What went wrong with TLS, in words, and which alert went with it.

use std::fmt;

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

/// An alert that ended it, and whose it was; by its number (RFC 8446 appendix B.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alert {
    /// The peer's.
    Received(u8),
    /// Ours.
    Sent(u8),
    /// Ours; which one it was, is not known.
    SentEncrypted,
    /// None went either way.
    None,
}

/// Why a handshake, or what came after it, failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which alert went with it.
    pub alert: Alert,
    /// What was wrong; one line.
    pub cause: String,
    /// The peer's certificate was.
    pub distrust: bool,
}

const ALERT: u8 = 21; // record type
const HIDDEN: u8 = 23;
const FATAL: u8 = 2;

/// Whether these are the record of an alert, in clear or not.
pub(super) fn is_alert(record: &[u8]) -> bool {
    // TLS 1.3 hides what kind of record it is, but nothing else is as small as an alert, its kind and a tag of 16 bytes.
    matches!(record, [ALERT, ..] | [HIDDEN, _, _, 0, 19, ..])
}

/// Puts the alert right that rustls sends in clear to a client of TLS 1.2 that shows no certificate: it is TLS 1.3's
/// (RFC 8446 section 4.4.2.4); RFC 5246 section 7.4.6 has `handshake_failure`.
pub(super) fn mend(error: &Error, sent: &mut [u8]) {
    if let (Error::NoCertificatesPresented, [.., ALERT, 3, 3, 0, 2, FATAL, number]) = (error, sent)
    {
        *number = AlertDescription::HandshakeFailure.into();
    }
}

impl Failure {
    /// `sent`: the records that rustls would have us send because of it.
    pub(super) fn new(error: &Error, sent: &[u8]) -> Self {
        let alert = match (error, sent) {
            (Error::AlertReceived(alert), _) => Alert::Received(u8::from(*alert)),
            (_, []) => Alert::None,
            // An alert in clear is one record: type, version, length 2, level, number.
            (_, [.., ALERT, _, _, 0, 2, FATAL, number]) => Alert::Sent(*number),
            _ => alert_of(error).map_or(Alert::SentEncrypted, Alert::Sent),
        };
        let distrust = matches!(error, Error::InvalidCertificate(_));
        Self {
            alert,
            cause: words(error),
            distrust,
        }
    }

    /// `close_notify` in the middle of a handshake.
    #[must_use]
    pub fn goodbye() -> Self {
        Self {
            alert: Alert::Received(AlertDescription::CloseNotify.into()),
            ..Self::other("closed in the handshake")
        }
    }

    /// Where it was not TLS that failed.
    #[must_use]
    pub fn other(cause: impl Into<String>) -> Self {
        Self {
            alert: Alert::None,
            cause: cause.into(),
            distrust: false,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause)
    }
}

/// An alert of the peer that ends it.
pub(super) fn received(alert: AlertDescription) -> Failure {
    Failure::new(&Error::AlertReceived(alert), &[])
}

/// The alert that goes with an error, where that is one for sure.
fn alert_of(error: &Error) -> Option<u8> {
    let alert = match error {
        Error::InvalidCertificate(why) => AlertDescription::from(why.clone()),
        Error::InvalidMessage(why) => AlertDescription::from(*why),
        Error::NoCertificatesPresented => AlertDescription::CertificateRequired,
        Error::DecryptError => AlertDescription::BadRecordMac,
        Error::PeerSentOversizedRecord => AlertDescription::RecordOverflow,
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            AlertDescription::UnexpectedMessage
        }
        _ => return None,
    };
    Some(alert.into())
}

fn words(error: &Error) -> String {
    let text = match error {
        Error::AlertReceived(alert) => format!("received alert {}", snake(*alert)),
        Error::InvalidCertificate(CertificateError::Other(why)) => why.to_string(),
        Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered) => {
            "unsupported protocol: TLS 1.2 is not offered".into()
        }
        other => other.to_string(),
    };
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `certificate_required`.
fn snake(alert: AlertDescription) -> String {
    let Some(name) = alert.as_str() else {
        return u8::from(alert).to_string();
    };
    let mut words = String::new();
    let mut small = false; // the letter before
    for letter in name.chars() {
        if small && letter.is_ascii_uppercase() {
            words.push('_');
        }
        small = letter.is_ascii_lowercase();
        words.push(letter.to_ascii_lowercase());
    }
    words
}
