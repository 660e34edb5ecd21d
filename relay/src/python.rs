//! The module `sniproxy._relay`; `sniproxy/_relay.pyi` is its description for Python.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::deadlines::TICK;
use crate::engine::{Handle, Terms as ListenTerms, Times};
use crate::handshakes::{ClientTls, ServerTls, ShakeReport, Tls, shake_report};
use crate::header::{self, Header, Network};
use crate::hello::{self, Reading};
use crate::meter::{self, Histogram};
use crate::places::Places;
use crate::plans::{self, Plan};
use crate::reports::{
    ArrivalReport, EndReport, PlayReport, arrival_report, end_report, play_report,
};
use crate::session::{Session, Side};
use crate::tools::Tools;

/// The door of an engine. See `_relay.pyi`.
#[pyclass(frozen, module = "sniproxy._relay")]
struct Engine(Handle<Py<PyAny>>);

/// The game servers of an upstream. See `_relay.pyi`.
#[pyclass(frozen, module = "sniproxy._relay")]
struct Nodes(Arc<plans::Nodes>);

/// What is counted together. See `_relay.pyi`.
#[pyclass(frozen, module = "sniproxy._relay")]
struct Meter(Arc<meter::Meter>);

#[pymethods]
impl Meter {
    #[new]
    fn new() -> Self {
        Self(Arc::default())
    }

    #[getter]
    fn begun(&self) -> u64 {
        self.0.begun()
    }

    #[getter]
    fn moved(&self) -> (u64, u64) {
        self.0.moved()
    }

    fn add(&self, to_upstream: u64, to_client: u64) {
        self.0.add(to_upstream, to_client);
    }
}

fn shared(meter: &Bound<'_, Meter>) -> Arc<meter::Meter> {
    Arc::clone(&meter.get().0)
}

/// Milliseconds (idle, half-close, session), and bytes per second.
type Terms = (u64, u64, Option<u64>, Option<u64>);
#[pymethods]
impl Nodes {
    #[new]
    fn new(addresses: Vec<(String, u16)>, keepalive_idle: u64) -> PyResult<Self> {
        let parsed: Result<Vec<SocketAddr>, _> = addresses
            .into_iter()
            .map(|(host, port)| {
                host.parse::<IpAddr>()
                    .map(|host| SocketAddr::new(host, port))
            })
            .collect();
        let parsed = parsed.map_err(|error| PyValueError::new_err(error.to_string()))?;
        if parsed.is_empty() {
            return Err(PyValueError::new_err("no nodes"));
        }
        let nodes = plans::Nodes::new(parsed, Duration::from_secs(keepalive_idle));
        Ok(Self(Arc::new(nodes)))
    }
}

#[pymethods]
impl Engine {
    #[new]
    #[pyo3(signature = (buffer_size, pipes=0, words=None, own=0, all=Vec::new(), most=u64::MAX))]
    #[allow(clippy::needless_pass_by_value)] // as it comes from Python
    fn new(
        buffer_size: usize,
        pipes: usize,
        words: Option<PyBuffer<u64>>,
        own: usize,
        all: Vec<usize>,
        most: u64,
    ) -> PyResult<Self> {
        let places = match words {
            Some(words) => places(words, own, &all, most)?,
            None => Places::alone(most),
        };
        let tools = Tools::new(buffer_size, pipes);
        Ok(Self(Handle::start_with(tools, places)?))
    }

    /// The eventfds: of ends, of ends of planned sessions, of arrivals, and of handshakes.
    fn filenos(&self) -> (RawFd, RawFd, RawFd, RawFd) {
        let raw = |fd: BorrowedFd<'_>| fd.as_raw_fd();
        (
            raw(self.0.done()),
            raw(self.0.over()),
            raw(self.0.knocks()),
            raw(self.0.shakes()),
        )
    }

    #[pyo3(signature = (client, upstream, first, terms, owner, meter=None, client_tls=None, upstream_tls=None))]
    #[allow(clippy::too_many_arguments)] // a session has two sides
    fn start(
        &self,
        client: RawFd,
        upstream: RawFd,
        first: &[u8],
        terms: Terms,
        owner: Py<PyAny>,
        meter: Option<&Bound<'_, Meter>>,
        client_tls: Option<&Bound<'_, Tls>>,
        upstream_tls: Option<&Bound<'_, Tls>>,
    ) -> PyResult<u64> {
        let take = |tls: &Bound<'_, Tls>| tls.get().take();
        let (client_tls, upstream_tls) = (
            client_tls.map(take).transpose()?,
            upstream_tls.map(take).transpose()?,
        );
        // SAFETY: the caller has detached both descriptors from their sockets (socket.detach), so they are open, and
        // nobody else owns them.
        let (client, upstream) =
            unsafe { (OwnedFd::from_raw_fd(client), OwnedFd::from_raw_fd(upstream)) };
        let session = Session::new(client, upstream, first.to_vec())
            .with_tls(Side::Client, client_tls)
            .with_tls(Side::Upstream, upstream_tls);
        Ok(self
            .0
            .adopt_counted(session, times(terms), meter.map(shared), owner))
    }

    fn accept_tls(
        &self,
        client: RawFd,
        server_tls: &Bound<'_, ServerTls>,
        said: &[u8],
        owner: Py<PyAny>,
    ) -> PyResult<u64> {
        let tls = server_tls.get().0.accept();
        let tls = tls.map_err(|failure| PyValueError::new_err(failure.cause))?;
        Ok(self
            .0
            .shake(copied(client)?, Box::new(tls), said.to_vec(), owner))
    }

    fn connect_tls(
        &self,
        upstream: RawFd,
        client_tls: &Bound<'_, ClientTls>,
        peer: &str,
        owner: Py<PyAny>,
    ) -> PyResult<u64> {
        let tls = client_tls.get().0.connect(peer);
        let tls = tls.map_err(|failure| PyValueError::new_err(failure.cause))?;
        Ok(self
            .0
            .shake(copied(upstream)?, Box::new(tls), Vec::new(), owner))
    }

    fn go_on_tls(&self, client: RawFd, tls: &Bound<'_, Tls>, owner: Py<PyAny>) -> PyResult<u64> {
        let begun = tls.get().take()?;
        Ok(self.0.shake(copied(client)?, begun, Vec::new(), owner))
    }

    fn abandon(&self, token: u64) {
        self.0.abandon(token);
    }

    fn shaken(&self) -> Vec<ShakeReport> {
        self.0.shaken().into_iter().map(shake_report).collect()
    }

    #[pyo3(signature = (listening, batch, trusted=None))]
    fn listen(
        &self,
        listening: RawFd,
        batch: usize,
        trusted: Option<Vec<(String, u8)>>,
    ) -> PyResult<usize> {
        let trusted = trusted.map(|networks| networks.into_iter().map(network).collect());
        let terms = ListenTerms {
            batch,
            trusted: trusted.transpose()?,
        };
        Ok(self.0.listen(copied(listening)?, terms))
    }

    #[pyo3(signature = (listener, most=0))]
    fn unlisten(&self, py: Python<'_>, listener: usize, most: usize) {
        py.detach(|| self.0.unlisten_after(listener, most));
    }

    #[pyo3(signature = (listener, name, nodes, terms, owner, meter=None, server_tls=None))]
    #[allow(clippy::too_many_arguments)] // all that a plan has
    fn learn(
        &self,
        listener: usize,
        name: &str,
        nodes: &Bound<'_, Nodes>,
        terms: Terms,
        owner: Py<PyAny>,
        meter: Option<&Bound<'_, Meter>>,
        server_tls: Option<&Bound<'_, ServerTls>>,
    ) {
        let plan = Plan {
            tls: server_tls.map(|tls| tls.get().0.clone()),
            nodes: Arc::clone(&nodes.get().0),
            times: times(terms),
            meter: meter.map(shared),
            owner,
        };
        self.0.learn(listener, name, plan);
    }

    fn limit(&self, most: u64) {
        self.0.limit(most);
    }

    fn forget(&self) {
        self.0.forget();
    }

    fn drain(&self, after: u64, spread: u64) {
        self.0.drain(after, spread);
    }

    fn undrain(&self) {
        self.0.undrain();
    }

    fn kill(&self, token: u64) {
        self.0.kill(token);
    }

    fn tick(&self, now: u64) {
        self.0.tick(now);
    }

    fn counts(&self, py: Python<'_>, token: u64) -> Option<(u64, u64)> {
        py.detach(|| self.0.counts(token))
    }

    fn playing(&self, py: Python<'_>) -> Vec<(Py<PyAny>, usize, usize)> {
        let playing = py.detach(|| self.0.playing());
        let rows = playing.iter();
        rows.map(|one| (one.plan.owner.clone_ref(py), one.node, one.sessions))
            .collect()
    }

    fn held(&self, py: Python<'_>) -> usize {
        py.detach(|| self.0.held())
    }

    fn shed(&self, py: Python<'_>, than: usize) -> usize {
        py.detach(|| self.0.shed(than))
    }

    fn accepted(&self) -> u64 {
        self.0.accepted()
    }

    fn hellos(&self) -> [u64; 4] {
        self.0.seen().hellos.counts()
    }

    /// (of each bucket, seconds in all): hello, connection, answer
    fn handshakes(&self) -> [u64; 4] {
        self.0.seen().handshakes()
    }

    fn waits(&self) -> [(Vec<u64>, f64); 4] {
        let waits = &self.0.seen().waits;
        [
            &waits.hello,
            &waits.handshake,
            &waits.connect,
            &waits.answer,
        ]
        .map(Histogram::counts)
    }

    fn ended(&self) -> Vec<EndReport> {
        self.0.ended().into_iter().map(end_report).collect()
    }

    fn mishap(&self) -> Option<String> {
        self.0.mishap().map(|mishap| mishap.to_string())
    }

    fn played(&self, py: Python<'_>) -> Vec<PlayReport> {
        let played = self.0.played().into_iter();
        played.map(|one| play_report(py, &one)).collect()
    }

    fn arrivals(&self, py: Python<'_>) -> Vec<ArrivalReport> {
        let arrivals = self.0.arrivals().into_iter();
        arrivals.map(|one| arrival_report(py, one)).collect()
    }

    fn pauses(&self) -> Vec<i32> {
        let pauses = self.0.pauses().into_iter();
        pauses.map(rustix::io::Errno::raw_os_error).collect()
    }

    fn stop(&self, py: Python<'_>) {
        py.detach(|| self.0.stop());
    }
}

fn copied(socket: RawFd) -> std::io::Result<OwnedFd> {
    // SAFETY: the caller holds the socket while this runs, and what is kept is a descriptor of our own.
    unsafe { BorrowedFd::borrow_raw(socket) }.try_clone_to_owned()
}

fn network((address, length): (String, u8)) -> PyResult<Network> {
    let address = address.parse().ok();
    let network = address.and_then(|address| Network::new(address, length));
    network.ok_or_else(|| PyValueError::new_err("no network"))
}

fn times((idle, half_close, session, bandwidth): Terms) -> Times {
    Times {
        idle,
        half_close,
        session,
        bandwidth,
    }
}

fn places(words: PyBuffer<u64>, own: usize, all: &[usize], most: u64) -> PyResult<Places> {
    let there = words.item_count();
    let fit = own < there && all.iter().all(|&index| index < there);
    if !fit || words.readonly() || !words.is_c_contiguous() {
        return Err(PyValueError::new_err("words that cannot be counted in"));
    }
    let word = |index: usize| {
        // SAFETY: within the buffer, which has been checked just now.
        unsafe { words.buf_ptr().cast::<u64>().add(index) }
            .cast_const()
            .cast()
    };
    let (own, all) = (word(own), all.iter().copied().map(word).collect());
    // SAFETY: the words of a buffer of u64 are aligned; holding the buffer keeps them where they are; Python stores whole words.
    Ok(unsafe { Places::new(own, all, most, Box::new(words)) })
}

/// The name in a `ClientHello`; None: not whole yet; "": Python must look. For the tests that hold both readers to one another.
#[pyfunction]
fn read_hello(bytes: &[u8]) -> Option<String> {
    match hello::read(bytes) {
        Reading::More => None,
        Reading::Name(name, _) => Some(name),
        Reading::Unsure => Some(String::new()),
    }
}

/// The client of a PROXY header and its size; None: not whole yet; size 0: Python must look. For the tests, as `read_hello`.
#[pyfunction]
fn read_header(bytes: &[u8]) -> Option<(String, u16, usize)> {
    match header::read(bytes) {
        Header::More => None,
        Header::Source(source, size) => Some((source.ip().to_string(), source.port(), size)),
        Header::Unsure => Some((String::new(), 0, 0)),
    }
}

#[pymodule]
fn _relay(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Engine>()?;
    module.add_class::<Nodes>()?;
    module.add_class::<ServerTls>()?;
    module.add_class::<ClientTls>()?;
    module.add_class::<Tls>()?;
    module.add_class::<Meter>()?;
    module.add_function(wrap_pyfunction!(read_hello, module)?)?;
    module.add_function(wrap_pyfunction!(read_header, module)?)?;
    module.add("BOUNDS", meter::BOUNDS)?;
    module.add("TICK", TICK)
}
