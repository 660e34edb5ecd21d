//! The handshake, by rustls's unbuffered interface, which keeps no buffer of its own: what it asks for is done step by step.

use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{CommonState, HandshakeKind, ProtocolVersion};

use crate::scratch::Scratch;

use super::failure::{self, Failure};
use super::keys::HEADER;
use super::records::Records;
use super::{Agreed, cipher_name};

#[allow(clippy::large_enum_variant)] // both are large
pub(super) enum Connection {
    Server(rustls::server::UnbufferedServerConnection),
    Client(rustls::client::UnbufferedClientConnection),
}

pub(super) struct Handshake {
    connection: Connection,
    /// Something was received, or asked for.
    begun: bool,
    /// Bytes of records that are opened, with part of a message in them.
    opened: usize,
}

enum Step {
    /// There is more to do.
    On,
    /// Nothing is left to do before more comes.
    Done,
}

impl Handshake {
    pub(super) fn new(connection: Connection) -> Self {
        Self {
            connection,
            begun: false,
            opened: 0,
        }
    }

    fn state(&self) -> &CommonState {
        match &self.connection {
            Connection::Server(server) => server,
            Connection::Client(client) => client,
        }
    }

    /// Whether ours is the first word.
    pub(super) fn begins(&self) -> bool {
        matches!(self.connection, Connection::Client(_)) && !self.begun
    }

    pub(super) fn is_over(&self) -> bool {
        !self.state().is_handshaking()
    }

    /// Takes in what came, up to the last record of the handshake: how many bytes it is done with. Answers go to `out`, and the
    /// alert where something is wrong. What it is not done with comes again, with more behind it.
    pub(super) fn receive(
        &mut self,
        incoming: &mut [u8],
        out: &mut Scratch,
    ) -> Result<usize, Failure> {
        self.begun = true;
        let (mut used, mut opened) = (0, self.opened);
        loop {
            // One record more each time: what comes behind the last one is not rustls's to open. (In that one nothing stands
            // behind the last message: rustls refuses it, as the keys would not change with a record.)
            let record = first_record(&incoming[opened..]);
            let shown = record.map_or(incoming.len(), |size| opened + size);
            loop {
                let (count, stepped) = self.step(&mut incoming[used..shown], out);
                used += count;
                match stepped {
                    Ok(Step::On) => {}
                    Ok(Step::Done) => break,
                    Err(error) => return Err(self.fail(&error, &mut incoming[used..shown], out)),
                }
            }
            if record.is_some() {
                opened = shown;
            }
            if self.is_over() || record.is_none() {
                self.opened = opened - used;
                return Ok(used);
            }
        }
    }

    fn step(
        &mut self,
        incoming: &mut [u8],
        out: &mut Scratch,
    ) -> (usize, Result<Step, rustls::Error>) {
        match &mut self.connection {
            Connection::Server(server) => step(server.process_tls_records(incoming), out),
            Connection::Client(client) => step(client.process_tls_records(incoming), out),
        }
    }

    /// What goes on from here, once it is over.
    pub(super) fn finish(self) -> Result<(Records, Agreed), Failure> {
        let agreed = self.agreed();
        let records = match self.connection {
            Connection::Server(server) => server
                .dangerous_into_kernel_connection()
                .map(|parts| Records::new(parts, true)),
            Connection::Client(client) => client
                .dangerous_into_kernel_connection()
                .map(|parts| Records::new(parts, false)),
        };
        let records = records.map_err(|error| Failure::new(&error, &[]))?;
        let records = records.ok_or_else(|| Failure::other("a cipher that is not known"))?;
        Ok((records, agreed))
    }

    fn agreed(&self) -> Agreed {
        let state = self.state();
        let shown = state.peer_certificates().and_then(<[_]>::first);
        let is_1_3 = state.protocol_version() == Some(ProtocolVersion::TLSv1_3);
        Agreed {
            version: if is_1_3 { "TLSv1.3" } else { "TLSv1.2" },
            cipher: state
                .negotiated_cipher_suite()
                .map_or("", |suite| cipher_name(suite.suite())),
            alpn: state.alpn_protocol().map(<[u8]>::to_vec),
            resumed: state.handshake_kind() == Some(HandshakeKind::Resumed),
            certificate: shown.map(|one| one.as_ref().to_vec()),
        }
    }

    /// In words; the alert that rustls would have us send goes behind what is in `out`. `left`: what it is not done with, in
    /// which it knows places.
    fn fail(&mut self, error: &rustls::Error, left: &mut [u8], out: &mut Scratch) -> Failure {
        let (before, mut used) = (out.len(), 0);
        loop {
            let last = out.len();
            let (count, stepped) = self.step(&mut left[used..], out);
            used += count;
            // Behind the alert it would go on with what came next.
            if !matches!(stepped, Ok(Step::On)) || failure::is_alert(&out[last..]) {
                break;
            }
        }
        let mut told = out[before..].to_vec();
        failure::mend(error, &mut told);
        out.truncate(before);
        out.extend_from_slice(&told);
        Failure::new(error, &told)
    }
}

/// Bytes of the first record, if it is whole.
fn first_record(bytes: &[u8]) -> Option<usize> {
    let header = bytes.first_chunk::<HEADER>()?;
    let length = HEADER + usize::from(u16::from_be_bytes([header[3], header[4]]));
    (length <= bytes.len()).then_some(length)
}

/// Does what rustls asks for; how many bytes it is done with.
fn step<D>(
    status: UnbufferedStatus<'_, '_, D>,
    out: &mut Scratch,
) -> (usize, Result<Step, rustls::Error>) {
    let stepped = match status.state {
        Err(error) => Err(error),
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            put(out, |room| data.encode(room));
            Ok(Step::On)
        }
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done(); // whoever called sends it
            Ok(Step::On)
        }
        // Early data is never agreed to, no other bytes come before it is over, and whatever else there may be one day waits
        // for more to come.
        Ok(_) => Ok(Step::Done),
    };
    (status.discard, stepped)
}

/// Appends what is put into the room that is made for it, as much as it says that it needs.
fn put(out: &mut Scratch, mut write: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>) {
    let (start, mut room) = (out.len(), 0);
    loop {
        let went = write(out.grow(room));
        out.truncate(start + *went.as_ref().unwrap_or(&0));
        match went {
            Err(EncodeError::InsufficientSize(error)) if error.required_size > room => {
                room = error.required_size;
            }
            _ => return,
        }
    }
}
