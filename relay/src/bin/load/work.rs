//! The kinds of work.

use std::collections::VecDeque;
use std::io::{BufRead, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::Failure;
use crate::crowd::{Crowd, Step};
use crate::link::Way;
use crate::tally::Tally;

pub const PATIENCE: Duration = Duration::from_millis(100); // between two looks at the clock
const OPENING: usize = 64; // sessions that are being opened at once
pub const CHUNK: usize = 256 * 1024; // bytes of a bulk message, sent again and again

/// What the command line says.
#[derive(Clone)]
pub struct Options {
    /// The proxy.
    pub to: SocketAddr,
    /// How sessions begin.
    pub way: Option<Arc<Way>>,
    /// At once.
    pub sessions: usize,
    /// Of what is counted, altogether.
    pub count: u64,
    /// Bytes of a message.
    pub size: usize,
    /// Bytes of a bulk, over all its streams.
    pub bytes: u64,
    /// Bytes that a session has on the way at most.
    pub window: u64,
    /// Messages per second over all sessions; None: each as soon as the one before it is back.
    pub rate: Option<f64>,
    /// In which new sessions begin; None: until there were as many as are to be counted.
    pub lasting: Option<Duration>,
    /// Over which a storm comes.
    pub spread: Duration,
    /// For all of it.
    pub deadline: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            to: (Ipv4Addr::LOCALHOST, 0).into(),
            way: None,
            sessions: 1,
            count: 1,
            size: 100,
            bytes: 1 << 20,
            window: u64::MAX,
            rate: None,
            lasting: None,
            spread: Duration::from_secs(5),
            deadline: Duration::from_secs(120),
        }
    }
}

/// New sessions, one exchange and both ends each: the time from connecting to the echo. With a rate they come one after
/// another at that rate, and a time begins when its session is due.
pub fn connections(options: &Options) -> Result<(), Failure> {
    let mut crowd = crowd(options)?;
    let mut tally = Tally::new();
    let began = Instant::now();
    let end = began + options.deadline;
    let last = began + options.lasting.unwrap_or(options.deadline);
    let (mut count, mut opened, mut over) = (options.count, 0, 0);
    let mut steps = Vec::new();
    while over < count && Instant::now() < end {
        let mut wait = PATIENCE;
        while crowd.len() < options.sessions && opened < count {
            let now = Instant::now();
            if now >= last {
                count = opened;
                break;
            }
            let due = options.rate.map_or(now, |rate| due(began, opened, rate));
            if due > now {
                wait = wait.min(due - now);
                break;
            }
            opened += 1;
            crowd.open(due)?;
        }
        crowd.turn(wait, &mut steps)?;
        for (key, step) in steps.drain(..) {
            let step = match step {
                Step::Exchanged(took) => {
                    tally.took(took);
                    crowd.finish(key)
                }
                other => Some(other),
            };
            match step {
                None | Some(Step::Exchanged(_)) => {}
                Some(Step::Ended) => over += 1,
                Some(Step::Failed(cause)) => {
                    over += 1;
                    tally.failed(&cause);
                }
            }
        }
    }
    for _ in over..count {
        tally.failed("not over at the deadline");
    }
    say(tally)
}

/// Messages to and fro on sessions that stand.
pub fn rounds(options: &Options) -> Result<(), Failure> {
    let mut crowd = gather(options)?;
    let message: Arc<[u8]> = pattern(options.size);
    let size = options.size as u64;
    on_each_line(|| {
        let mut tally = Tally::new();
        match options.rate {
            None => closed_loop(&mut crowd, &message, size, options, &mut tally)?,
            Some(rate) => paced(&mut crowd, &message, rate, options, &mut tally)?,
        }
        say(tally)
    })
}

/// Each session sends its next message when the last one is back.
fn closed_loop(
    crowd: &mut Crowd,
    message: &Arc<[u8]>,
    bytes: u64,
    options: &Options,
    tally: &mut Tally,
) -> Result<(), Failure> {
    let end = Instant::now() + options.deadline;
    let (mut begun, mut over) = (0, 0);
    let mut steps = Vec::new();
    let mut free = crowd.keys();
    while over < options.count && Instant::now() < end {
        for key in free.drain(..) {
            if begun < options.count {
                begun += 1;
                if let Some(step) = crowd.exchange(key, message, bytes, Instant::now()) {
                    steps.push((key, step));
                }
            }
        }
        if steps.is_empty() {
            crowd.turn(PATIENCE, &mut steps)?;
        }
        for (key, step) in steps.drain(..) {
            over += 1;
            match step {
                Step::Exchanged(took) => {
                    tally.took(took);
                    free.push(key);
                }
                Step::Ended => tally.failed("ended"),
                Step::Failed(cause) => tally.failed(&cause),
            }
        }
        if crowd.len() == 0 {
            break;
        }
    }
    for _ in over..options.count {
        tally.failed("not back at the deadline");
    }
    Ok(())
}

/// Messages at a steady rate, session after session. A time begins when its message is due, sent or not.
fn paced(
    crowd: &mut Crowd,
    message: &Arc<[u8]>,
    rate: f64,
    options: &Options,
    tally: &mut Tally,
) -> Result<(), Failure> {
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
    let began = Instant::now();
    let mut dues = (0..options.count).map(|number| due(began, number, rate));
    let mut next = dues.next();
    let end = began + options.deadline;
    let mut free: VecDeque<usize> = crowd.keys().into();
    let mut steps = Vec::new();
    let mut over = 0;
    while over < options.count && crowd.len() > 0 {
        let now = Instant::now();
        if now >= end {
            break;
        }
        while let Some(due) = next.filter(|&due| due <= now) {
            let Some(key) = free.pop_front() else { break };
            next = dues.next();
            if let Some(step) = crowd.exchange(key, message, options.size as u64, due) {
                steps.push((key, step));
            }
        }
        let wait = match next {
            Some(due) if !free.is_empty() => due.saturating_duration_since(Instant::now()),
            _ => PATIENCE,
        };
        crowd.turn(wait, &mut steps)?;
        for (key, step) in steps.drain(..) {
            over += 1;
            if !matches!(step, Step::Exchanged(_)) {
                free.retain(|&one| one != key); // it may have been lost between two messages
            }
            match step {
                Step::Exchanged(took) => {
                    tally.took(took);
                    free.push_back(key);
                }
                Step::Ended => tally.failed("ended"),
                Step::Failed(cause) => tally.failed(&cause),
            }
        }
    }
    for _ in over..options.count {
        tally.failed("not back at the deadline");
    }
    Ok(())
}

/// When what comes at a steady rate is due.
fn due(began: Instant, number: u64, rate: f64) -> Instant {
    #[allow(clippy::cast_precision_loss)] // counts are far below 2^52
    let seconds = number as f64 / rate;
    began + Duration::from_secs_f64(seconds)
}

/// One long message per session, sent as fast as it is taken.
pub fn bulk(options: &Options) -> Result<(), Failure> {
    let mut crowd = gather(options)?;
    let message = pattern(CHUNK);
    let streams = options.sessions as u64;
    on_each_line(|| {
        let mut tally = Tally::new();
        let each = Options {
            count: streams,
            ..options.clone()
        };
        closed_loop(
            &mut crowd,
            &message,
            options.bytes / streams,
            &each,
            &mut tally,
        )?;
        say(tally)
    })
}

/// Sessions that stand and do nothing. A line asks how many still do.
pub fn idle(options: &Options) -> Result<(), Failure> {
    let mut crowd = gather(options)?;
    on_each_line(|| {
        let mut tally = Tally::new();
        let mut steps = Vec::new();
        let before = crowd.len();
        crowd.turn(Duration::ZERO, &mut steps)?;
        for _ in crowd.len()..before {
            tally.failed("ended");
        }
        say(tally)
    })
}

fn crowd(options: &Options) -> Result<Crowd, Failure> {
    let way = options.way.as_ref().ok_or("no way")?;
    Crowd::new(options.to, Arc::clone(way), options.window)
}

/// As many sessions as asked for, each after its first exchange; says so, or fails.
pub fn gather(options: &Options) -> Result<Crowd, Failure> {
    let mut crowd = crowd(options)?;
    let mut tally = Tally::new();
    let end = Instant::now() + options.deadline;
    let mut ready = 0;
    let mut steps = Vec::new();
    while ready < options.sessions {
        if Instant::now() > end {
            return Err(format!("{ready} of {} sessions are open", options.sessions).into());
        }
        while crowd.len() < options.sessions.min(ready + OPENING) {
            crowd.open(Instant::now())?;
        }
        crowd.turn(PATIENCE, &mut steps)?;
        for (_, step) in steps.drain(..) {
            match step {
                Step::Exchanged(took) => {
                    tally.took(took);
                    ready += 1;
                }
                Step::Ended => return Err("a session ended".into()),
                Step::Failed(cause) => return Err(format!("session {ready}: {cause}").into()),
            }
        }
    }
    say(tally)?;
    Ok(crowd)
}

pub fn on_each_line(mut work: impl FnMut() -> Result<(), Failure>) -> Result<(), Failure> {
    for line in std::io::stdin().lock().lines() {
        line?;
        work()?;
    }
    Ok(())
}

pub fn say(tally: Tally) -> Result<(), Failure> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{}", json!(tally.report()))?;
    Ok(output.flush()?)
}

/// Bytes of which no two neighbouring kilobytes are alike.
pub fn pattern(size: usize) -> Arc<[u8]> {
    let mut state = 1_u32;
    (0..size)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        })
        .collect()
}
