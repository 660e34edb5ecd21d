//! What is counted while it happens, for whoever looks at any time.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

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
