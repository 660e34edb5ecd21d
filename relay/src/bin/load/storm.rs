//! Players whose game server goes away, and who all come back.

use std::time::{Duration, Instant};

use crate::Failure;
use crate::crowd::{Crowd, Step};
use crate::tally::Tally;
use crate::work::{Options, PATIENCE, gather, on_each_line, say};

/// The first line waits until every session is lost, the second has all connect anew, at moments spread by chance: the time
/// from connecting to the echo. And so on.
pub fn storm(options: &Options) -> Result<(), Failure> {
    let mut crowd = gather(options)?;
    let mut lost = false;
    on_each_line(|| {
        let mut tally = Tally::new();
        if lost {
            come_back(&mut crowd, options, &mut tally)?;
        } else {
            lose(&mut crowd, options, &mut tally)?;
        }
        lost = !lost;
        say(tally)
    })
}

/// Until nobody is left. A time is from the line to the loss.
fn lose(crowd: &mut Crowd, options: &Options, tally: &mut Tally) -> Result<(), Failure> {
    let began = Instant::now();
    let end = began + options.deadline;
    let mut steps = Vec::new();
    while crowd.len() > 0 && Instant::now() < end {
        crowd.turn(PATIENCE, &mut steps)?;
        for _ in steps.drain(..) {
            tally.took(began.elapsed());
        }
    }
    for _ in 0..crowd.len() {
        tally.failed("not lost at the deadline");
    }
    Ok(())
}

fn come_back(crowd: &mut Crowd, options: &Options, tally: &mut Tally) -> Result<(), Failure> {
    let began = Instant::now();
    let end = began + options.deadline;
    let mut dues = moments(options.sessions, options.spread)
        .into_iter()
        .map(|moment| began + moment)
        .peekable();
    let mut over = 0;
    let mut steps = Vec::new();
    while over < options.sessions && Instant::now() < end {
        while let Some(due) = dues.next_if(|&due| due <= Instant::now()) {
            crowd.open(due)?;
        }
        let wait = dues.peek().map_or(PATIENCE, |due| {
            due.saturating_duration_since(Instant::now()).min(PATIENCE)
        });
        crowd.turn(wait, &mut steps)?;
        for (_, step) in steps.drain(..) {
            over += 1;
            match step {
                Step::Exchanged(took) => tally.took(took),
                Step::Ended => tally.failed("ended"),
                Step::Failed(cause) => tally.failed(&cause),
            }
        }
    }
    for _ in over..options.sessions {
        tally.failed("not back at the deadline");
    }
    Ok(())
}

/// In order; by chance, and the same each time.
fn moments(count: usize, spread: Duration) -> Vec<Duration> {
    let mut state = 1_u32;
    let mut moments: Vec<Duration> = (0..count)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            spread.mul_f64(f64::from(state) / f64::from(u32::MAX))
        })
        .collect();
    moments.sort_unstable();
    moments
}
