//! TLS behind the handshake: records of either version, and the few messages that may still come in them.
//!
//! rustls shakes hands; from then on it is asked for the next key alone. It would copy each byte twice more on the way in,
//! and twice on the way out. What may come is little: bytes, alerts, new keys and tickets; all else ends the connection by
//! the alert that RFC 8446 section 6.2 has for it.

use rustls::kernel::KernelConnection;
use rustls::{AlertDescription, ConnectionTrafficSecrets, ExtractedSecrets, SupportedCipherSuite};

use crate::scratch::Scratch;

use super::failure::{Alert, Failure, received};
use super::keys::{FRAGMENT, HEADER, Key, Unopened};

/// Bytes of a record of TLS 1.2, at most (RFC 5246 section 6.2.3).
const RECORD: usize = HEADER + FRAGMENT + 2048;
/// Of TLS 1.3 (RFC 8446 section 5.2).
const RECORD_13: usize = HEADER + FRAGMENT + 256;
/// Bytes of one message, as rustls has it in the handshake.
const MESSAGE: usize = 64 * 1024;
/// Records in a row that may bring nothing to hand on.
const FRUITLESS: u8 = 32;

const CHANGE_CIPHER_SPEC: u8 = 20; // kinds of records (RFC 8446 section 5.1)
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
const HELLO_REQUEST: u8 = 0; // kinds of messages (RFC 8446 appendix B.3, RFC 5246 section 7.4)
const CLIENT_HELLO: u8 = 1;
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;
const WARNING: u8 = 1;
const FATAL: u8 = 2;

/// The next keys of a connection of TLS 1.3.
trait Renewal: Send {
    fn reading(&mut self) -> Result<(u64, ConnectionTrafficSecrets), rustls::Error>;
    fn writing(&mut self) -> Result<(u64, ConnectionTrafficSecrets), rustls::Error>;
}

impl<D: Send> Renewal for KernelConnection<D> {
    fn reading(&mut self) -> Result<(u64, ConnectionTrafficSecrets), rustls::Error> {
        self.update_rx_secret()
    }

    fn writing(&mut self) -> Result<(u64, ConnectionTrafficSecrets), rustls::Error> {
        self.update_tx_secret()
    }
}

/// One connection behind its handshake.
pub(super) struct Records {
    reading: Key,
    writing: Key,
    /// None in TLS 1.2, where a key is for good.
    renewal: Option<Box<dyn Renewal>>,
    /// Records that one key may seal (RFC 8446 section 5.5).
    limit: u64,
    is_server: bool,
    /// The beginning of a message that came in more than one record.
    message: Vec<u8>,
    fruitless: u8,
    /// The peer has said that nothing more comes.
    pub(super) ended: bool,
    /// We have.
    pub(super) closed: bool,
}

/// What is wrong, and which alert says so.
struct Wrong(AlertDescription, &'static str);

impl Records {
    /// None: what rustls has agreed to is unknown here.
    pub(super) fn new<D: Send + 'static>(
        (secrets, renewal): (ExtractedSecrets, KernelConnection<D>),
        is_server: bool,
    ) -> Option<Self> {
        let (is_1_3, limit) = match renewal.negotiated_cipher_suite() {
            SupportedCipherSuite::Tls13(suite) => (true, suite.common.confidentiality_limit),
            SupportedCipherSuite::Tls12(suite) => (false, suite.common.confidentiality_limit),
        };
        Some(Self {
            reading: Key::new(secrets.rx, is_1_3)?,
            writing: Key::new(secrets.tx, is_1_3)?,
            renewal: is_1_3.then(|| Box::new(renewal) as Box<dyn Renewal>),
            limit,
            is_server,
            message: Vec::new(),
            fruitless: 0,
            ended: false,
            closed: false,
        })
    }

    fn is_1_3(&self) -> bool {
        self.renewal.is_some()
    }

    /// Bytes that are kept.
    pub(super) fn held(&self) -> usize {
        self.message.capacity()
    }

    /// Takes in the records that are whole, until the peer ends; of how many bytes they were. What they carry goes to
    /// `clear`, what we have to say to it to `out`.
    pub(super) fn receive(
        &mut self,
        incoming: &[u8],
        clear: &mut Scratch,
        out: &mut Scratch,
    ) -> Result<usize, Failure> {
        let mut used = 0;
        while !self.ended {
            let left = &incoming[used..];
            let Some((&header, left)) = left.split_first_chunk::<HEADER>() else {
                break;
            };
            let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
            self.check(header[0], length)
                .map_err(|wrong| self.refuse(&wrong, out))?;
            let Some(body) = left.get(..length) else {
                break;
            };
            used += HEADER + length;
            let start = clear.len();
            let kind = self.reading.open(header, body, clear);
            let kind = kind.map_err(|why| self.refuse(&why.into(), out))?;
            if kind == APPLICATION_DATA && self.message.is_empty() && clear.len() > start {
                self.fruitless = 0;
                continue;
            }
            let content = clear[start..].to_vec();
            clear.truncate(start);
            self.take(kind, &content, out)?;
        }
        Ok(used)
    }

    /// A record by its header alone, which comes before the rest.
    fn check(&self, kind: u8, length: usize) -> Result<(), Wrong> {
        // TLS 1.3 hides the kind, and what is not hidden is not sealed.
        let (least, most) = if self.is_1_3() {
            (APPLICATION_DATA, RECORD_13)
        } else {
            (CHANGE_CIPHER_SPEC, RECORD)
        };
        if !(least..=APPLICATION_DATA).contains(&kind) {
            return Err(unexpected("a record of a kind that may not come now"));
        }
        if HEADER + length > most {
            return Err(Unopened::Oversized.into());
        }
        Ok(())
    }

    /// What is no bytes to hand on.
    fn take(&mut self, kind: u8, content: &[u8], out: &mut Scratch) -> Result<(), Failure> {
        self.fruitless += 1;
        let taken = if self.fruitless > FRUITLESS {
            Err(unexpected("too many records that bring nothing"))
        } else if !self.message.is_empty() && kind != HANDSHAKE {
            Err(unexpected("something else in the midst of a message")) // RFC 8446 section 5.1
        } else {
            match (kind, content) {
                (APPLICATION_DATA, []) => Ok(()),
                (ALERT, &[level, number]) => return self.hear(level, number, out),
                (ALERT, [_, ..]) => Err(Wrong(AlertDescription::DecodeError, "a misshapen alert")),
                (HANDSHAKE, [_, ..]) => self.read(content, out),
                _ => Err(unexpected("a record of a kind that may not come now")),
            }
        };
        taken.map_err(|wrong| self.refuse(&wrong, out))
    }

    /// An alert.
    fn hear(&mut self, level: u8, number: u8, out: &mut Scratch) -> Result<(), Failure> {
        let alert = AlertDescription::from(number);
        if !matches!(level, WARNING | FATAL) {
            let wrong = Wrong(AlertDescription::IllegalParameter, "an alert of no level");
            return Err(self.refuse(&wrong, out));
        }
        if alert == AlertDescription::CloseNotify {
            self.ended = true;
            return Ok(());
        }
        // In TLS 1.3 all others are fatal, whatever their level, but for this one (RFC 8446 section 6).
        if level == WARNING && (!self.is_1_3() || alert == AlertDescription::UserCanceled) {
            return Ok(());
        }
        Err(received(alert))
    }

    /// A message or more, or parts of them.
    fn read(&mut self, content: &[u8], out: &mut Scratch) -> Result<(), Wrong> {
        self.message.extend_from_slice(content);
        let mut bytes = std::mem::take(&mut self.message);
        let mut used = 0;
        while let Some((&[kind, high, middle, low], left)) = bytes[used..].split_first_chunk() {
            let length = u32::from_be_bytes([0, high, middle, low]) as usize;
            if length > MESSAGE {
                return Err(Wrong(
                    AlertDescription::DecodeError,
                    "a message that is too long",
                ));
            }
            let Some(body) = left.get(..length) else {
                break;
            };
            used += 4 + length;
            self.obey(kind, body, used == bytes.len(), out)?;
        }
        bytes.drain(..used);
        bytes.shrink_to_fit();
        self.message = bytes;
        Ok(())
    }

    /// A whole message; `is_last`: nothing stands behind it in its record.
    fn obey(
        &mut self,
        kind: u8,
        body: &[u8],
        is_last: bool,
        out: &mut Scratch,
    ) -> Result<(), Wrong> {
        match (kind, body) {
            (KEY_UPDATE, &[asked]) if self.is_1_3() => {
                // What stands behind it would be under two keys (RFC 8446 section 5.1).
                if !is_last {
                    return Err(unexpected("a message behind a new key in one record"));
                }
                if asked > 1 {
                    return Err(Wrong(
                        AlertDescription::IllegalParameter,
                        "a misshapen key update",
                    ));
                }
                self.renew_reading()?;
                if asked == 1 && !self.closed {
                    self.renew_writing(out)?;
                }
                Ok(())
            }
            (KEY_UPDATE, _) if self.is_1_3() => Err(Wrong(
                AlertDescription::DecodeError,
                "a misshapen key update",
            )),
            // Nobody comes back to a game server.
            (NEW_SESSION_TICKET, _) if self.is_1_3() && !self.is_server => Ok(()),
            // Never again (RFC 5246 section 7.2.2).
            (CLIENT_HELLO, _) if !self.is_1_3() && self.is_server => self.decline(out),
            (HELLO_REQUEST, []) if !self.is_1_3() && !self.is_server => self.decline(out),
            _ => Err(unexpected("a message that may not come now")),
        }
    }

    fn decline(&mut self, out: &mut Scratch) -> Result<(), Wrong> {
        if self.closed {
            return Ok(());
        }
        self.put(
            ALERT,
            &[WARNING, AlertDescription::NoRenegotiation.into()],
            out,
        )
    }

    /// Encrypts, behind what is in `out`.
    pub(super) fn encrypt(&mut self, bytes: &[u8], out: &mut Scratch) -> Result<(), Failure> {
        for fragment in bytes.chunks(FRAGMENT) {
            if self.writing.records + 1 >= self.limit {
                self.spend(out)?;
            }
            self.put(APPLICATION_DATA, fragment, out)
                .map_err(|Wrong(_, why)| Failure::other(why))?;
        }
        Ok(())
    }

    /// The next record is the last one that the key may seal.
    fn spend(&mut self, out: &mut Scratch) -> Result<(), Failure> {
        if self.is_1_3() {
            let renewed = self.renew_writing(out);
            return renewed.map_err(|Wrong(_, why)| Failure::other(why));
        }
        Err(Failure::other("the key of this connection is used up"))
    }

    /// Says that nothing more comes from us (RFC 8446 section 6.1), behind what is in `out`.
    pub(super) fn close(&mut self, out: &mut Scratch) -> Result<(), Failure> {
        if self.closed {
            return Ok(());
        }
        self.closed = true;
        let told = self.put(ALERT, &[WARNING, AlertDescription::CloseNotify.into()], out);
        told.map_err(|Wrong(_, why)| Failure::other(why))
    }

    fn put(&mut self, kind: u8, clear: &[u8], out: &mut Scratch) -> Result<(), Wrong> {
        let sealed = self.writing.seal(kind, clear, out);
        sealed.map_err(|_| Wrong(AlertDescription::InternalError, "cannot encrypt"))
    }

    fn renew_reading(&mut self) -> Result<(), Wrong> {
        let next = self.renewal.as_mut().and_then(|one| one.reading().ok());
        self.reading = renewed(next)?;
        Ok(())
    }

    /// Says that a new key follows, and takes it (RFC 8446 section 4.6.3).
    fn renew_writing(&mut self, out: &mut Scratch) -> Result<(), Wrong> {
        self.put(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 0], out)?;
        let next = self.renewal.as_mut().and_then(|one| one.writing().ok());
        self.writing = renewed(next)?;
        Ok(())
    }

    /// Ends it with an alert, unless we have said that nothing more comes.
    fn refuse(&mut self, wrong: &Wrong, out: &mut Scratch) -> Failure {
        let &Wrong(alert, cause) = wrong;
        let number = alert.into();
        let told = !self.closed && self.put(ALERT, &[FATAL, number], out).is_ok();
        Failure {
            alert: if told {
                Alert::Sent(number)
            } else {
                Alert::None
            },
            ..Failure::other(cause)
        }
    }
}

fn renewed(next: Option<(u64, ConnectionTrafficSecrets)>) -> Result<Key, Wrong> {
    let key = next.and_then(|secrets| Key::new(secrets, true));
    key.ok_or(Wrong(AlertDescription::InternalError, "no next key"))
}

fn unexpected(why: &'static str) -> Wrong {
    Wrong(AlertDescription::UnexpectedMessage, why)
}

impl From<Unopened> for Wrong {
    fn from(why: Unopened) -> Self {
        match why {
            Unopened::Forged => Self(AlertDescription::BadRecordMac, "cannot decrypt"),
            Unopened::Oversized => Self(
                AlertDescription::RecordOverflow,
                "a record that is too long",
            ),
            Unopened::Kindless => unexpected("a record of no kind"),
        }
    }
}

#[cfg(test)]
mod tests;
