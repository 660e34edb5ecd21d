//! What rustls's unbuffered interface asks for, one step after another.

use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};

pub(super) enum Step {
    /// There is more to do.
    On,
    /// The peer has ended.
    Ended,
    /// Nothing is left to do before more comes.
    Done,
}

/// Does what rustls asks for; how many bytes it is done with.
pub(super) fn step<D>(
    status: UnbufferedStatus<'_, '_, D>,
    clear: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> (usize, Result<Step, rustls::Error>) {
    let UnbufferedStatus { mut discard, state } = status;
    let stepped = match state {
        Err(error) => Err(error),
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                Some(Ok(record)) => {
                    discard += record.discard;
                    clear.extend_from_slice(record.payload);
                }
                Some(Err(error)) => break Err(error),
                None => break Ok(Step::On),
            }
        },
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            put(out, 0, |room| match data.encode(room) {
                Ok(count) => Ok(count),
                Err(EncodeError::InsufficientSize(error)) => Err(Some(error.required_size)),
                Err(EncodeError::AlreadyEncoded) => Err(None),
            });
            Ok(Step::On)
        }
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done(); // whoever called sends it
            Ok(Step::On)
        }
        Ok(ConnectionState::PeerClosed) => Ok(Step::Ended),
        // Early data is never agreed to, and whatever else there may be one day waits for more to come.
        Ok(_) => Ok(Step::Done),
    };
    (discard, stepped)
}

/// The same on the way to writing; whether it has been written.
pub(super) fn write_step<D>(
    status: UnbufferedStatus<'_, '_, D>,
    room: usize,
    out: &mut Vec<u8>,
    write: &mut impl FnMut(&mut dyn Traffic, &mut [u8]) -> Result<usize, EncryptError>,
) -> (usize, Result<bool, rustls::Error>) {
    match status.state {
        Ok(ConnectionState::WriteTraffic(mut traffic)) => {
            let mut written = Ok(true);
            put(out, room, |room| match write(&mut traffic, room) {
                Ok(count) => Ok(count),
                Err(EncryptError::InsufficientSize(error)) => Err(Some(error.required_size)),
                Err(EncryptError::EncryptExhausted) => {
                    written = Err(rustls::Error::EncryptError);
                    Err(None)
                }
            });
            (0, written)
        }
        Ok(ConnectionState::Closed) => (0, Ok(true)), // it was said
        Ok(ConnectionState::BlockedHandshake) => (0, Err(rustls::Error::HandshakeNotComplete)),
        state => {
            let status = UnbufferedStatus {
                discard: status.discard,
                state,
            };
            let (count, stepped) = step(status, &mut Vec::new(), out);
            (count, stepped.map(|_| false))
        }
    }
}

/// Appends what is put into the room that is made for it; again, where it says how much more it needs.
fn put(
    out: &mut Vec<u8>,
    mut room: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>,
) {
    let start = out.len();
    loop {
        out.resize(start + room, 0);
        match write(&mut out[start..]) {
            Ok(count) => {
                out.truncate(start + count);
                return;
            }
            Err(Some(required)) if required > room => room = required,
            Err(_) => {
                out.truncate(start);
                return;
            }
        }
    }
}

/// Writing, whichever side we are.
pub(super) trait Traffic {
    fn encrypt(&mut self, bytes: &[u8], room: &mut [u8]) -> Result<usize, EncryptError>;
    fn queue_close_notify(&mut self, room: &mut [u8]) -> Result<usize, EncryptError>;
}

impl<D> Traffic for rustls::unbuffered::WriteTraffic<'_, D> {
    fn encrypt(&mut self, bytes: &[u8], room: &mut [u8]) -> Result<usize, EncryptError> {
        self.encrypt(bytes, room)
    }

    fn queue_close_notify(&mut self, room: &mut [u8]) -> Result<usize, EncryptError> {
        self.queue_close_notify(room)
    }
}
