//! Many deadlines that move all the time and are seldom reached: buckets of one tick.
//!
//! Moving a deadline costs nothing: a session only notes its last byte. It is looked at when the tick comes for which it
//! was filed, and filed again if bytes have moved meanwhile: once per session and timeout, not once per message.

use std::collections::BTreeMap;

/// Milliseconds between two looks at the deadlines.
pub const TICK: u64 = 500;

/// Keys of sessions by the tick at which they must be looked at.
///
/// A session that is filed twice is found twice: whoever asks compares with where the session believes itself to be.
#[derive(Default)]
pub struct Deadlines {
    buckets: BTreeMap<u64, Vec<usize>>,
}

impl Deadlines {
    /// Files a key for a time in milliseconds; the number of its bucket.
    pub fn file(&mut self, key: usize, due: u64) -> u64 {
        let bucket = due.div_ceil(TICK);
        self.buckets.entry(bucket).or_default().push(key);
        bucket
    }

    /// The next bucket whose time has come, and its number.
    pub fn due(&mut self, now: u64) -> Option<(u64, Vec<usize>)> {
        let first = self.buckets.first_entry()?;
        (first.key().saturating_mul(TICK) <= now).then(|| first.remove_entry())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_at_its_tick_and_not_before() {
        let mut deadlines = Deadlines::default();
        assert_eq!(deadlines.file(7, 1200), 3);
        assert_eq!(deadlines.file(8, 1500), 3);
        assert_eq!(deadlines.file(9, 1501), 4);
        assert_eq!(deadlines.due(1499), None);
        assert_eq!(deadlines.due(1500), Some((3, vec![7, 8])));
        assert_eq!(deadlines.due(1999), None);
        assert_eq!(deadlines.due(60_000), Some((4, vec![9])));
        assert_eq!(deadlines.due(u64::MAX), None);
    }

    #[test]
    fn ticks_that_were_missed_are_made_up_for_in_order() {
        let mut deadlines = Deadlines::default();
        for key in 0..100 {
            deadlines.file(key, 10_000 - 100 * key as u64);
        }
        let mut found = Vec::new();
        while let Some((_, keys)) = deadlines.due(10_000) {
            found.extend(keys);
        }
        assert_eq!(found.len(), 100);
        assert!(found.first() > found.last());
    }
}
