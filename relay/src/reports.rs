//! What an engine has to tell, in the form in which Python hears it; `sniproxy/_relay.pyi` describes it.

use std::net::SocketAddr;
use std::os::fd::{IntoRawFd, RawFd};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::engine::{Arrival, Ended, Played, Tried};
use crate::handshakes::{TlsReport, tls_report};
use crate::session::{End, Side};

/// (word, errno or 0, what has broken)
type How = (&'static str, i32, Option<String>);
/// (owner, how, bytes to the upstream, bytes to the client)
pub(crate) type EndReport = (Py<PyAny>, How, u64, u64);
/// (plan, node, token, client, our own address towards the node, protocols offered), how, bytes (to the upstream, to the
/// client), microseconds (hello, connect, altogether), TLS
pub(crate) type PlayReport = (
    (
        Py<PyAny>,
        usize,
        u64,
        String,
        Option<String>,
        Option<Py<PyBytes>>,
    ),
    How,
    (u64, u64),
    (u64, Option<u64>, u64),
    Option<SealedReport>,
);
/// (version, cipher, application protocol, whether it was resumed, microseconds)
type SealedReport = (&'static str, &'static str, Option<Py<PyBytes>>, bool, u64);
/// (listener, descriptor, (host, port, flow information, scope), said, errno, microseconds, in pieces, TLS,
/// what was tried)
pub(crate) type ArrivalReport = (
    usize,
    RawFd,
    (String, u16, u32, u32),
    Py<PyBytes>,
    i32,
    u64,
    bool,
    Option<TlsReport>,
    Option<TriedReport>,
);
/// (plan, node, descriptor or -1, errno, microseconds to the whole hello, from there to the end of the handshake)
type TriedReport = (Py<PyAny>, usize, RawFd, i32, u64, Option<u64>);

fn how(end: &End) -> How {
    let (word, errno) = match end {
        End::Closed(Side::Client) => ("client_closed", 0),
        End::Closed(Side::Upstream) => ("upstream_closed", 0),
        End::Truncated(Side::Client) => ("client_truncated", 0),
        End::Truncated(Side::Upstream) => ("upstream_truncated", 0),
        End::BadTls(Side::Client, failure) => {
            return ("client_tls", 0, Some(failure.cause.clone()));
        }
        End::BadTls(Side::Upstream, failure) => {
            return ("upstream_tls", 0, Some(failure.cause.clone()));
        }
        End::Lost(Side::Client, error) => ("client_lost", error.raw_os_error()),
        End::Lost(Side::Upstream, error) => ("upstream_lost", error.raw_os_error()),
        End::Idle => ("idle", 0),
        End::TimeUp => ("time_up", 0),
        End::Drained => ("drained", 0),
        End::NeverClosed(Side::Client) => ("client_closed_alone", 0),
        End::NeverClosed(Side::Upstream) => ("upstream_closed_alone", 0),
        End::Killed => ("killed", 0),
        End::Shed => ("shed", 0),
        End::Stopped => ("stopped", 0),
        End::Broken(mishap) => return ("broken", 0, Some(mishap.to_string())),
    };
    (word, errno, None)
}

pub(crate) fn end_report(ended: Ended<Py<PyAny>>) -> EndReport {
    let how = how(&ended.end);
    (ended.owner, how, ended.to_upstream, ended.to_client)
}

pub(crate) fn play_report(py: Python<'_>, played: &Played<Py<PyAny>>) -> PlayReport {
    let plan = played.plan.owner.clone_ref(py);
    let alpn = played.alpn.as_deref();
    (
        (
            plan,
            played.node,
            played.token,
            text(played.peer),
            played.source.map(text),
            alpn.map(|listed| PyBytes::new(py, listed).unbind()),
        ),
        how(&played.end),
        (played.to_upstream, played.to_client),
        (
            microseconds(played.hello_took),
            played.connect_took.map(microseconds),
            microseconds(played.lasted),
        ),
        played.sealed.as_ref().map(|(agreed, took)| {
            let alpn = agreed.alpn.as_ref();
            (
                agreed.version,
                agreed.cipher,
                alpn.map(|alpn| PyBytes::new(py, alpn).unbind()),
                agreed.resumed,
                microseconds(*took),
            )
        }),
    )
}

pub(crate) fn arrival_report(py: Python<'_>, arrival: Arrival<Py<PyAny>>) -> ArrivalReport {
    let (flow, scope) = match arrival.peer {
        SocketAddr::V4(_) => (0, 0),
        SocketAddr::V6(address) => (address.flowinfo(), address.scope_id()),
    };
    let peer = (
        arrival.peer.ip().to_string(),
        arrival.peer.port(),
        flow,
        scope,
    );
    (
        arrival.listener,
        arrival.socket.into_raw_fd(),
        peer,
        PyBytes::new(py, &arrival.said).unbind(),
        arrival.failure.map_or(0, rustix::io::Errno::raw_os_error),
        microseconds(arrival.waited),
        arrival.split,
        arrival.tls.map(tls_report),
        arrival.tried.map(|tried| tried_report(py, tried)),
    )
}

fn tried_report(py: Python<'_>, tried: Tried<Py<PyAny>>) -> TriedReport {
    let (socket, errno) = match tried.outcome {
        Ok(socket) => (socket.into_raw_fd(), 0),
        Err(error) => (-1, error.raw_os_error()),
    };
    let plan = tried.plan.owner.clone_ref(py);
    (
        plan,
        tried.node,
        socket,
        errno,
        microseconds(tried.hello_took),
        tried.shook.map(microseconds),
    )
}

/// host:port, with an IPv4 address that was mapped into IPv6 as what it is.
fn text(peer: SocketAddr) -> String {
    SocketAddr::new(peer.ip().to_canonical(), peer.port()).to_string()
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
