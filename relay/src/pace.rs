//! A cap on the bytes that each direction of one session may move per second. It knows no clock: `now` is passed in.
//!
//! A bucket of a tenth of a second is kept as the time at which it is full again (GCRA, ITU-T I.371 annex A).

use crate::session::Side;

const SECOND: u64 = 1_000_000; // microseconds
const BURST: u64 = SECOND / 10; // what may go at once
const QUANTUM: u64 = SECOND / 100; // what is worth waking up for

/// Both directions of one session, each by the side that its bytes come from. Times are microseconds of any one clock.
pub struct Pace {
    per_second: u64,
    full_at: [u64; 2],
    /// When the session goes on, if it waits for that.
    pub due: Option<u64>,
}

impl Pace {
    /// That many bytes per second.
    #[must_use]
    pub fn new(per_second: u64) -> Self {
        Self {
            per_second: per_second.max(1),
            full_at: [0, 0],
            due: None,
        }
    }

    /// Bytes that may go now.
    #[must_use]
    pub fn allowance(&self, from: Side, now: u64) -> usize {
        if now < self.ready_at(from) {
            return 0;
        }
        let owed = self.full_at[from as usize].saturating_sub(now);
        let bytes = u128::from(self.per_second) * u128::from(BURST - owed) / u128::from(SECOND);
        usize::try_from(bytes).unwrap_or(usize::MAX).max(1)
    }

    /// When more may go.
    #[must_use]
    pub fn ready_at(&self, from: Side) -> u64 {
        self.full_at[from as usize].saturating_sub(BURST - QUANTUM)
    }

    /// Those have gone.
    pub fn spend(&mut self, from: Side, bytes: u64, now: u64) {
        let time = (u128::from(bytes) * u128::from(SECOND)).div_ceil(u128::from(self.per_second));
        let full_at = &mut self.full_at[from as usize];
        *full_at = (*full_at)
            .max(now)
            .saturating_add(u64::try_from(time).unwrap_or(u64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: Side = Side::Client;

    #[test]
    fn a_tenth_of_a_second_goes_at_once_and_then_the_rate() {
        let mut pace = Pace::new(1_000_000);
        let (mut now, mut moved) = (5_000_000, 0);
        for _ in 0..1000 {
            let bytes = pace.allowance(CLIENT, now) as u64;
            pace.spend(CLIENT, bytes, now);
            moved += bytes;
            now = pace.ready_at(CLIENT).max(now);
        }
        let rate = moved - 100_000;
        assert!(rate.abs_diff(now - 5_000_000) <= 10_000, "{moved} by {now}");
    }

    #[test]
    fn directions_are_apart_and_rest_is_saved_up_to_the_burst() {
        let mut pace = Pace::new(1000);
        assert_eq!(pace.allowance(CLIENT, 0), 100);
        pace.spend(CLIENT, 100, 0);
        assert_eq!(pace.allowance(CLIENT, 0), 0);
        assert_eq!(pace.allowance(Side::Upstream, 0), 100);
        assert_eq!(pace.ready_at(CLIENT), 10_000);
        assert_eq!(pace.allowance(CLIENT, 9_999), 0);
        assert_eq!(pace.allowance(CLIENT, 10_000), 10);
        assert_eq!(pace.allowance(CLIENT, 60 * SECOND), 100);
    }

    #[test]
    fn the_slowest_and_the_fastest_still_move() {
        assert_eq!(Pace::new(0).allowance(CLIENT, 0), 1);
        assert!(Pace::new(u64::MAX).allowance(CLIENT, 0) > 1 << 50);
        let mut pace = Pace::new(1);
        pace.spend(CLIENT, u64::MAX, 0);
        assert_eq!(pace.allowance(CLIENT, SECOND), 0);
    }

    #[test]
    fn many_small_ones_are_not_for_nothing() {
        let mut pace = Pace::new(10_000_000);
        for _ in 0..100_000 {
            pace.spend(CLIENT, 19, 0);
        }
        assert!(pace.ready_at(CLIENT) >= 100_000);
    }
}
