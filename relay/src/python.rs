//! The module `sniproxy._relay`; `sniproxy/_relay.pyi` is its description for Python.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use pyo3::prelude::*;

use crate::deadlines::TICK;
use crate::engine::{Ended, Handle, Times};
use crate::session::{End, Session, Side};

/// The door of an engine. See `_relay.pyi`.
#[pyclass(frozen, module = "sniproxy._relay")]
struct Engine(Handle<Py<PyAny>>);

/// (owner, how, errno, bytes to the upstream, bytes to the client)
type Report = (Py<PyAny>, &'static str, i32, u64, u64);

#[pymethods]
impl Engine {
    #[new]
    fn new(buffer_size: usize) -> PyResult<Self> {
        Ok(Self(Handle::start(buffer_size)?))
    }

    fn fileno(&self) -> RawFd {
        self.0.done().as_raw_fd()
    }

    #[allow(clippy::too_many_arguments)] // one call per session, by position
    fn start(
        &self,
        client: RawFd,
        upstream: RawFd,
        first: &[u8],
        idle: u64,
        half_close: u64,
        session: Option<u64>,
        owner: Py<PyAny>,
    ) -> u64 {
        // SAFETY: the caller has detached both descriptors from their sockets (socket.detach), so they are open, and
        // nobody else owns them.
        let (client, upstream) =
            unsafe { (OwnedFd::from_raw_fd(client), OwnedFd::from_raw_fd(upstream)) };
        let times = Times {
            idle,
            half_close,
            session,
        };
        self.0
            .adopt(Session::new(client, upstream, first.to_vec()), times, owner)
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

    fn ended(&self) -> Vec<Report> {
        self.0.ended().into_iter().map(report).collect()
    }

    fn stop(&self, py: Python<'_>) {
        py.detach(|| self.0.stop());
    }
}

fn report(ended: Ended<Py<PyAny>>) -> Report {
    let (how, errno) = match ended.end {
        End::Closed(Side::Client) => ("client_closed", 0),
        End::Closed(Side::Upstream) => ("upstream_closed", 0),
        End::Lost(Side::Client, error) => ("client_lost", error.raw_os_error()),
        End::Lost(Side::Upstream, error) => ("upstream_lost", error.raw_os_error()),
        End::Idle => ("idle", 0),
        End::TimeUp => ("time_up", 0),
        End::NeverClosed(Side::Client) => ("client_closed_alone", 0),
        End::NeverClosed(Side::Upstream) => ("upstream_closed_alone", 0),
        End::Killed => ("killed", 0),
        End::Stopped => ("stopped", 0),
    };
    (ended.owner, how, errno, ended.to_upstream, ended.to_client)
}

#[pymodule]
fn _relay(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Engine>()?;
    module.add("TICK", TICK)
}
