//! A session with TLS on one side or both: records become bytes in clear, and bytes in clear records.
//!
//! All of it goes through buffers that the sessions of a thread share. A session keeps a record that is not whole, what it may
//! not hand on yet for its cap on bandwidth, and what the other side did not take.

use std::mem::take;

use super::{End, Pumped, Session, Side};
use crate::tls::{Failure, REST};
use crate::tools::Tools;

/// Bytes of answers that a side may be owed while more is read from it: reading makes them due (RFC 8446 section 4.6.3).
const ANSWERS: usize = 64 * 1024;

impl Session {
    /// As `pump`.
    pub(super) fn pump_sealed(
        &mut self,
        from: Side,
        tools: &mut Tools,
        share: usize,
        cap: usize,
    ) -> Result<Pumped, End> {
        let to = from.other();
        let before = self.moved[to as usize];
        let mut heard = 0; // records may be much longer than what is in them
        loop {
            if !self.pay(to, tools)? || self.is_doomed_by(to) {
                return Ok(Pumped::Waits);
            }
            let gone = usize::try_from(self.moved[to as usize] - before).unwrap_or(usize::MAX);
            let allowed = cap.saturating_sub(gone);
            if self.has_clear(from) {
                if allowed == 0 {
                    return Ok(Pumped::Capped);
                }
                if gone >= share {
                    return Ok(Pumped::HasMore);
                }
                self.hand_kept(from, allowed.min(tools.buffer.len()), tools)?;
                continue;
            }
            if self.is_doomed_by(from) {
                if let Some(end) = self.doom.take() {
                    return Err(*end);
                }
            }
            if self.sockets[from as usize].ended {
                self.pass_on_the_end(from, tools)?;
                return Ok(Pumped::Waits);
            }
            if self.owes_answers(from, tools)? || !self.sockets[from as usize].readable {
                return Ok(Pumped::Waits);
            }
            if allowed == 0 {
                return Ok(Pumped::Capped);
            }
            if gone.max(heard) >= share {
                return Ok(Pumped::HasMore);
            }
            let count = if self.sockets[from as usize].tls.is_some() {
                self.unseal(from, allowed, tools)?
            } else {
                self.read_clear(from, allowed, tools)?
            };
            let Some(count) = count else {
                return Ok(Pumped::Waits);
            };
            heard += count;
        }
    }

    /// Says to a side with TLS that nothing more comes, once.
    pub(super) fn say_goodbye(&mut self, to: Side, tools: &mut Tools) -> Result<(), End> {
        let Some(tls) = &mut self.sockets[to as usize].tls else {
            return Ok(());
        };
        if tls.is_closed() {
            return Ok(());
        }
        let mut sealed = take(&mut tools.sealed);
        sealed.clear();
        let closed = tls.close(&mut sealed);
        let handed = closed
            .map_err(|failure| End::BadTls(to, failure))
            .and_then(|()| self.hand(to, &sealed, 0));
        tools.sealed = sealed;
        handed
    }

    /// Whether it will end for what a side's TLS has done. What was sound has its way first, and nothing is said to it any more.
    fn is_doomed_by(&self, side: Side) -> bool {
        matches!(self.doom.as_deref(), Some(&End::BadTls(whose, _)) if whose == side)
    }

    fn has_clear(&self, side: Side) -> bool {
        let tls = self.sockets[side as usize].tls.as_ref();
        tls.is_some_and(|tls| tls.has_clear())
    }

    /// Whether a side is behind with what its own records have made due; not with what the other side has said, of which it
    /// may be owed what was read at once.
    fn owes_answers(&mut self, side: Side, tools: &mut Tools) -> Result<bool, End> {
        let most = ANSWERS + tools.records.len() / 16 * 17;
        let debt = self.sockets[side as usize].debt.as_ref();
        if debt.is_none_or(|owed| owed.left() <= most) {
            return Ok(false);
        }
        self.pay(side, tools).map(|paid| !paid)
    }

    /// What was kept in clear, as far as it may go.
    fn hand_kept(&mut self, from: Side, most: usize, tools: &mut Tools) -> Result<(), End> {
        let Some(tls) = &mut self.sockets[from as usize].tls else {
            return Ok(());
        };
        let clear = tls.take_clear(most);
        self.hand_clear(from.other(), &clear, tools)
    }

    /// From a side without TLS to one with; how many bytes there were, None: none now.
    fn read_clear(
        &mut self,
        from: Side,
        allowed: usize,
        tools: &mut Tools,
    ) -> Result<Option<usize>, End> {
        let size = tools.buffer.len().min(allowed);
        let received = self.sockets[from as usize].receive(&mut tools.buffer[..size]);
        let Some(count) = received.map_err(|error| self.lost(from, error))? else {
            return Ok(None);
        };
        let buffer = take(&mut tools.buffer);
        let handed = self.hand_clear(from.other(), &buffer[..count], tools);
        tools.buffer = buffer;
        handed.map(|()| Some(count))
    }

    /// From a side with TLS; how many bytes there were, None: none now.
    fn unseal(
        &mut self,
        from: Side,
        allowed: usize,
        tools: &mut Tools,
    ) -> Result<Option<usize>, End> {
        let socket = &mut self.sockets[from as usize];
        let Some(tls) = &mut socket.tls else {
            return Ok(None);
        };
        let size = tools.records.len() - REST;
        let rest = tls.put_rest(&mut tools.records);
        let received = socket.receive(&mut tools.records[rest..rest + size]);
        let count = match received {
            Ok(Some(count)) => count,
            Ok(None) => return Ok(None),
            Err(error) => return Err(self.lost(from, error)),
        };
        if count == 0 {
            self.truncated |= self.first_end.is_none();
            return Ok(Some(0));
        }
        let Some(tls) = &mut self.sockets[from as usize].tls else {
            return Ok(None);
        };
        let (mut clear, mut answers) = (take(&mut tools.clear), take(&mut tools.sealed));
        clear.clear();
        answers.clear();
        let went = tls.receive(&mut tools.records[..rest + count], &mut clear, &mut answers);
        self.sockets[from as usize].ended |= tls.has_ended();
        let handed = self.hand(from, &answers, 0);
        tools.sealed = answers;
        let handed = handed.and_then(|()| match went {
            Ok(()) => self.hand_some(from, &clear, allowed, tools),
            Err(failure) => {
                // What was sound before it has its way first.
                self.doom = Some(Box::new(End::BadTls(from, failure)));
                self.hand_some(from, &clear, allowed, tools)
            }
        });
        tools.clear = clear;
        handed.map(|()| Some(count))
    }

    /// Hands on what may go, and keeps the rest.
    fn hand_some(
        &mut self,
        from: Side,
        clear: &[u8],
        allowed: usize,
        tools: &mut Tools,
    ) -> Result<(), End> {
        let (now, later) = clear.split_at(clear.len().min(allowed));
        if !later.is_empty() {
            if let Some(tls) = &mut self.sockets[from as usize].tls {
                tls.keep_clear(later);
            }
        }
        self.hand_clear(from.other(), now, tools)
    }

    /// Sends bytes in clear to a side: as records, if it has TLS.
    fn hand_clear(&mut self, to: Side, clear: &[u8], tools: &mut Tools) -> Result<(), End> {
        if clear.is_empty() {
            return Ok(());
        }
        let Some(tls) = &mut self.sockets[to as usize].tls else {
            return self.hand(to, clear, clear.len());
        };
        let mut sealed = take(&mut tools.sealed);
        sealed.clear();
        let went: Result<(), Failure> = tls.encrypt(clear, &mut sealed);
        let handed = went
            .map_err(|failure| End::BadTls(to, failure))
            .and_then(|()| self.hand(to, &sealed, clear.len()));
        tools.sealed = sealed;
        handed
    }
}
