//! TLS as Python holds it: what handshakes are made with, and what comes of them; `sniproxy/_relay.pyi` describes it.

use std::sync::{Mutex, PoisonError};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::engine::{Shaken, Unshaken};
use crate::tls::{self, Agreed, Alert, Offer, PemError};

/// What handshakes with players are made with. See `_relay.pyi`.
#[pyclass(frozen, module = "sniproxy._relay")]
pub(crate) struct ServerTls(pub(crate) tls::Server);

/// What handshakes with game servers are made with. See `_relay.pyi`.
#[pyclass(frozen, module = "sniproxy._relay")]
pub(crate) struct ClientTls(pub(crate) tls::Client);

/// One side's TLS. See `_relay.pyi`.
#[pyclass(frozen, module = "sniproxy._relay")]
pub(crate) struct Tls {
    state: Mutex<Option<Box<tls::Tls>>>,
    over: bool,
    agreed: Agreed,
}

/// (owner, TLS to go on with, (word, number of the alert or errno, cause, whether the certificate was at fault))
pub(crate) type ShakeReport = (Py<PyAny>, Option<Tls>, Option<Refusal>);
/// TLS as far as it has come, or why it came to nothing.
pub(crate) type TlsReport = (Option<Tls>, Option<Refusal>);
type Refusal = (&'static str, i32, String, bool);

#[pymethods]
impl ServerTls {
    #[new]
    #[allow(clippy::needless_pass_by_value)] // as it comes from Python
    fn new(
        py: Python<'_>,
        pairs: Vec<(String, String)>,
        versions: (bool, bool),
        client_ca: Option<(String, usize)>,
        alpn: Vec<Vec<u8>>,
        secrets: Vec<[u8; 32]>,
    ) -> PyResult<Self> {
        let offer = Offer {
            pairs: pairs
                .iter()
                .map(|(chain, key)| (&chain[..], &key[..]))
                .collect(),
            versions,
            client_ca: client_ca.as_ref().map(|(ca, depth)| (&ca[..], *depth)),
            alpn,
            secrets,
        };
        let made = py.detach(|| tls::Server::new(offer));
        made.map(Self).map_err(refused)
    }
}

#[pymethods]
impl ClientTls {
    #[new]
    #[pyo3(signature = (trusted, shown=None))]
    #[allow(clippy::needless_pass_by_value)] // as it comes from Python
    fn new(
        py: Python<'_>,
        trusted: Option<Vec<String>>,
        shown: Option<(String, String)>,
    ) -> PyResult<Self> {
        let shown = shown.as_ref().map(|(chain, key)| (&chain[..], &key[..]));
        let made = py.detach(|| tls::Client::new(trusted.as_deref(), shown));
        made.map(Self).map_err(refused)
    }
}

#[pymethods]
impl Tls {
    #[getter]
    fn is_over(&self) -> bool {
        self.over
    }

    #[getter]
    fn version(&self) -> &'static str {
        self.agreed.version
    }

    #[getter]
    fn cipher(&self) -> &'static str {
        self.agreed.cipher
    }

    #[getter]
    fn alpn<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        self.agreed.alpn.as_ref().map(|alpn| PyBytes::new(py, alpn))
    }

    #[getter]
    fn resumed(&self) -> bool {
        self.agreed.resumed
    }

    #[getter]
    fn certificate<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        let shown = self.agreed.certificate.as_ref();
        shown.map(|der| PyBytes::new(py, der))
    }
}

impl Tls {
    fn new(tls: Box<tls::Tls>) -> Self {
        let (agreed, over) = (tls.agreed(), !tls.is_handshaking() && tls.owed.is_empty());
        Self {
            state: Mutex::new(Some(tls)),
            over,
            agreed,
        }
    }

    /// For a session; only once.
    pub(crate) fn take(&self) -> PyResult<Box<tls::Tls>> {
        let mut tls = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        tls.take()
            .ok_or_else(|| PyValueError::new_err("it has a session already"))
    }
}

pub(crate) fn shake_report(shaken: Shaken<Py<PyAny>>) -> ShakeReport {
    let (tls, refusal) = tls_report(shaken.outcome);
    (shaken.owner, tls, refusal)
}

pub(crate) fn tls_report(outcome: Result<Box<tls::Tls>, Unshaken>) -> TlsReport {
    let refusal = match outcome {
        Ok(tls) => return (Some(Tls::new(tls)), None),
        Err(Unshaken::Failed(failure)) => {
            let (word, number) = alert(failure.alert);
            (word, number, failure.cause, failure.distrust)
        }
        Err(Unshaken::Lost(error)) => ("lost", error.raw_os_error(), String::new(), false),
        Err(Unshaken::Closed) => ("closed", 0, String::new(), false),
        Err(Unshaken::Broken(mishap)) => ("broken", 0, mishap, false),
    };
    (None, Some(refusal))
}

/// A word for whose it was, and its number.
fn alert(alert: Alert) -> (&'static str, i32) {
    match alert {
        Alert::Received(number) => ("received", number.into()),
        Alert::Sent(number) => ("sent", number.into()),
        Alert::SentEncrypted => ("sent_encrypted", 0),
        Alert::None => ("silent", 0),
    }
}

fn refused(error: PemError) -> PyErr {
    PyValueError::new_err(error.0)
}
