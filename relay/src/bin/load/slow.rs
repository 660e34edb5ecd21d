//! Players who read a little each second of what a `source` sends as fast as it can.

use std::io::{self, BufRead, ErrorKind};
use std::sync::mpsc::{self, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt;

use crate::Failure;
use crate::link::{Link, Way};
use crate::tally::Tally;
use crate::work::{CHUNK, Options, pattern, say};

const OPENING: usize = 64; // sessions that are being opened at once
const WINDOW: usize = 16 * 1024; // bytes that the kernel keeps for each, of what was not read
const LOOK: Duration = Duration::from_millis(1); // at those
const SHARES: u32 = 100; // of a second, in each of which as many players read

struct Reader {
    link: Link,
    first: std::sync::Arc<[u8]>,
    said: usize, // bytes of `first` that were sent
    got: usize,  // of the bytes that come again and again
}

impl Reader {
    /// What came, none if nothing is there; an error too where it is not what was sent.
    fn read(&mut self, buffer: &mut [u8], bytes: &[u8]) -> io::Result<usize> {
        self.say()?;
        let count = match self.link.receive(buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(error) if is_for_later(&error) => return Ok(0),
            Err(error) => return Err(error),
        };
        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            let due = &bytes[self.got..][..rest.len().min(bytes.len() - self.got)];
            if due != &rest[..due.len()] {
                return Err(io::Error::other("other bytes than were sent"));
            }
            self.got = (self.got + due.len()) % bytes.len();
            rest = &rest[due.len()..];
        }
        Ok(count)
    }

    fn say(&mut self) -> io::Result<()> {
        while self.said < self.first.len() {
            match self.link.send(&self.first[self.said..]) {
                Ok(count) => self.said += count,
                Err(error) if is_for_later(&error) => break,
                Err(error) => return Err(error),
            }
        }
        match self.link.go_on() {
            Err(error) if is_for_later(&error) => Ok(()),
            other => other,
        }
    }
}

fn is_for_later(error: &io::Error) -> bool {
    // Not connected: not yet.
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::NotConnected
    )
}

/// Prints a line when the first byte has come to all. Each line that comes is answered with how many reads there were since
/// the last one, and how late each was.
pub fn slow(options: &Options) -> Result<(), Failure> {
    let bytes = pattern(CHUNK);
    let mut readers = open(options, &bytes)?;
    say(Tally::new())?;
    let (asked, lines) = mpsc::channel();
    thread::spawn(move || {
        for _ in io::stdin().lock().lines().map_while(Result::ok) {
            if asked.send(()).is_err() {
                break;
            }
        }
    });
    let mut buffer = vec![0; options.size];
    let mut tally = Tally::new();
    let began = Instant::now();
    for number in 0.. {
        let due = began + Duration::from_secs(1) * number / SHARES;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let turn = (number % SHARES) as usize;
        for place in readers.iter_mut().skip(turn).step_by(SHARES as usize) {
            let Some(reader) = place else { continue };
            match reader.read(&mut buffer, &bytes) {
                Ok(0) => {}
                Ok(_) => tally.took(due.elapsed()),
                Err(error) => {
                    tally.failed(&error.to_string());
                    *place = None;
                }
            }
        }
        match lines.try_recv() {
            Ok(()) => say(std::mem::replace(&mut tally, Tally::new()))?,
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => break,
        }
    }
    Ok(())
}

fn open(options: &Options, bytes: &[u8]) -> Result<Vec<Option<Reader>>, Failure> {
    let way: &Way = options.way.as_ref().ok_or("no way")?;
    let end = Instant::now() + options.deadline;
    let mut buffer = [0; 1];
    let (mut opening, mut readers): (Vec<Reader>, Vec<_>) = (Vec::new(), Vec::new());
    while readers.len() < options.sessions {
        if Instant::now() > end {
            let count = readers.len();
            return Err(format!("{count} of {} sessions are open", options.sessions).into());
        }
        while opening.len() < OPENING && readers.len() + opening.len() < options.sessions {
            let link = Link::open(options.to, way)?;
            sockopt::set_socket_recv_buffer_size(link.socket(), WINDOW)?;
            opening.push(Reader {
                link,
                first: way.first_message(readers.len() + opening.len()),
                said: 0,
                got: 0,
            });
        }
        let mut still = Vec::new();
        for mut reader in opening {
            if reader.read(&mut buffer, bytes)? > 0 {
                readers.push(Some(reader));
            } else {
                still.push(reader);
            }
        }
        opening = still;
        thread::sleep(LOOK);
    }
    Ok(readers)
}
