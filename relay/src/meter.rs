//! What is counted while it happens, for whoever looks at any time.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::traits::{self, Traits};

/// Sessions that are counted together, such as those of a route, and the bytes that they have moved so far.
#[derive(Debug, Default)]
pub struct Meter {
    begun: AtomicU64,
    to_upstream: AtomicU64,
    to_client: AtomicU64,
}

impl Meter {
    /// A session that goes by a plan sets out.
    pub fn begin(&self) {
        self.begun.fetch_add(1, Relaxed);
    }

    /// So many bytes more were handed to the kernel.
    pub fn add(&self, to_upstream: u64, to_client: u64) {
        if to_upstream > 0 {
            self.to_upstream.fetch_add(to_upstream, Relaxed);
        }
        if to_client > 0 {
            self.to_client.fetch_add(to_client, Relaxed);
        }
    }

    /// How many sessions by plans have set out.
    #[must_use]
    pub fn begun(&self) -> u64 {
        self.begun.load(Relaxed)
    }

    /// Bytes so far, to the upstream and to the client.
    #[must_use]
    pub fn moved(&self) -> (u64, u64) {
        (self.to_upstream.load(Relaxed), self.to_client.load(Relaxed))
    }
}

/// Microseconds, up to which a bucket goes; one more has the rest.
pub const BOUNDS: [u64; 14] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
];

/// How often something took how long.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    total: AtomicU64,
}

impl Histogram {
    /// It took so many microseconds once more.
    pub fn note(&self, took: u64) {
        let bucket = BOUNDS.partition_point(|&bound| bound < took);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.total.fetch_add(took, Relaxed);
    }

    /// The same; what is given comes back.
    pub fn take(&self, took: Duration) -> Duration {
        self.note(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        took
    }

    /// Of each bucket by itself, and seconds in all.
    #[must_use]
    pub fn counts(&self) -> (Vec<u64>, f64) {
        let counts = self.buckets.iter().map(|one| one.load(Relaxed));
        let total = Duration::from_micros(self.total.load(Relaxed));
        (counts.collect(), total.as_secs_f64())
    }
}

/// How long each step took, told when it is done.
#[derive(Debug, Default)]
pub struct Waits {
    /// From accept to the whole hello, of those who go by plans.
    pub hello: Histogram,
    /// From there to the end of the TLS handshake, of those who go by plans that have one.
    pub handshake: Histogram,
    /// From there to the connection with the game server.
    pub connect: Histogram,
    /// From there, or from when a session was handed over, to the first byte for the client.
    pub answer: Histogram,
}

/// Hellos that somebody went by a plan for. All but the first may be said of the same one.
#[derive(Debug, Default)]
pub struct Hellos {
    plain: AtomicU64,
    post_quantum: AtomicU64,
    ech: AtomicU64,
    split: AtomicU64,
}

impl Hellos {
    /// One more. `split`: it came in several pieces.
    pub fn note(&self, hello: &[u8], split: bool) {
        self.count(traits::read(hello), split);
    }

    fn count(&self, traits: Traits, split: bool) {
        let is_plain = !(traits.post_quantum || traits.ech || split);
        for (is_so, count) in [
            (is_plain, &self.plain),
            (traits.post_quantum, &self.post_quantum),
            (traits.ech, &self.ech),
            (split, &self.split),
        ] {
            if is_so {
                count.fetch_add(1, Relaxed);
            }
        }
    }

    /// Plain ones, with post-quantum groups, with ECH, in several pieces.
    #[must_use]
    pub fn counts(&self) -> [u64; 4] {
        [&self.plain, &self.post_quantum, &self.ech, &self.split].map(|one| one.load(Relaxed))
    }
}

/// What an engine counts of all its sessions.
#[derive(Debug, Default)]
pub struct Seen {
    /// Of those who went by plans.
    pub hellos: Hellos,
    /// The same.
    pub waits: Waits,
    /// TLS handshakes of those who go by plans: of TLS 1.2, those that were resumed, and the same of TLS 1.3.
    handshakes: [AtomicU64; 4],
}

impl Seen {
    /// Somebody has said a hello, by which he goes by a plan. `split`: in several pieces.
    pub fn hello(&self, hello: &[u8], split: bool, took: Duration) {
        self.hellos.note(hello, split);
        self.waits.hello.take(took);
    }

    /// His TLS handshake is over.
    pub fn handshake(&self, is_1_3: bool, resumed: bool, took: Duration) {
        self.handshakes[2 * usize::from(is_1_3) + usize::from(resumed)].fetch_add(1, Relaxed);
        self.waits.handshake.take(took);
    }

    /// How many there were of each.
    #[must_use]
    pub fn handshakes(&self) -> [u64; 4] {
        [0, 1, 2, 3].map(|kind| self.handshakes[kind].load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meter_adds_up() {
        let meter = Meter::default();
        assert_eq!((meter.begun(), meter.moved()), (0, (0, 0)));
        meter.begin();
        meter.add(1, 0);
        meter.add(0, 20);
        meter.add(300, 4000);
        assert_eq!((meter.begun(), meter.moved()), (1, (301, 4020)));
    }

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let histogram = Histogram::default();
        for took in [0, 500, 501, 10_000_000, 10_000_001] {
            histogram.note(took);
        }
        let (counts, seconds) = histogram.counts();
        assert_eq!((counts[0], counts[1], counts[13], counts[14]), (2, 1, 1, 1));
        assert_eq!(counts.iter().sum::<u64>(), 5);
        assert!((seconds - 20.001_002).abs() < 1e-9);
    }

    #[test]
    fn a_hello_is_counted_for_all_that_it_is() {
        let hellos = Hellos::default();
        let traits = |post_quantum, ech| Traits { post_quantum, ech };
        hellos.count(traits(false, false), false);
        hellos.count(traits(true, false), false);
        hellos.count(traits(true, true), true);
        hellos.count(traits(false, false), true);
        assert_eq!(hellos.counts(), [1, 2, 1, 2]);
    }
}
