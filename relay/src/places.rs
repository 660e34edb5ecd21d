//! How many sessions there are, in words of memory that the workers of a pod share: each writes its own and reads all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The words. Whoever comes adds itself first and looks at the sum after, so `most` is never passed.
pub struct Places {
    own: *const AtomicU64,
    all: Box<[*const AtomicU64]>,
    most: AtomicU64,
    _memory: Box<dyn Send + Sync>,
}

// SAFETY: the words are atomic, and `new` is promised that they live as long as this does, in whatever thread.
unsafe impl Send for Places {}
// SAFETY: as above; nothing in it is changed but the atomic words.
unsafe impl Sync for Places {}

impl Places {
    /// Counts in the word at `own`, among `all`, of which it is one.
    ///
    /// # Safety
    ///
    /// Every pointer is aligned and stays valid as long as `memory` lives, and whoever else writes to the words does so with
    /// whole, aligned stores.
    #[must_use]
    pub unsafe fn new(
        own: *const AtomicU64,
        all: Box<[*const AtomicU64]>,
        most: u64,
        memory: Box<dyn Send + Sync>,
    ) -> Self {
        Self {
            own,
            all,
            most: AtomicU64::new(most),
            _memory: memory,
        }
    }

    /// Counts for itself alone.
    #[must_use]
    pub fn alone(most: u64) -> Self {
        let word = Arc::new(AtomicU64::new(0));
        let own = Arc::as_ptr(&word);
        // SAFETY: what an Arc holds stays where it is for as long as the Arc lives.
        unsafe { Self::new(own, Box::new([own]), most, Box::new(word)) }
    }

    /// One more session; whether there is a place for it.
    #[must_use]
    pub fn enter(&self) -> bool {
        self.at(self.own).fetch_add(1, Ordering::SeqCst);
        let sum: u64 = self
            .all
            .iter()
            .map(|&one| self.at(one).load(Ordering::SeqCst))
            .sum();
        sum <= self.most.load(Ordering::Relaxed)
    }

    /// From now on there are so many places; who has one keeps it.
    pub fn limit(&self, most: u64) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// So many fewer.
    pub fn leave(&self, count: u64) {
        self.at(self.own).fetch_sub(count, Ordering::SeqCst);
    }

    #[allow(clippy::unused_self)] // the word lives as long as self does
    fn at(&self, word: *const AtomicU64) -> &AtomicU64 {
        // SAFETY: valid and aligned by the promise to `new`.
        unsafe { &*word }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// Words of two workers.
    type Words = Arc<[AtomicU64; 2]>;

    fn places(words: &Words, own: usize, most: u64) -> Places {
        let all = Box::new([0, 1].map(|index| std::ptr::from_ref(&words[index])));
        // SAFETY: what an Arc holds stays where it is, and the places hold the Arc.
        unsafe { Places::new(all[own], all, most, Box::new(Arc::clone(words))) }
    }

    fn read(words: &Words) -> [u64; 2] {
        [0, 1].map(|index: usize| words[index].load(Ordering::SeqCst))
    }

    #[test]
    fn there_are_so_many_places_and_those_who_leave_make_room() {
        let places = Places::alone(2);
        assert!(places.enter() && places.enter());
        assert!(!places.enter(), "who finds none has come all the same");
        places.leave(1);
        assert!(!places.enter());
        places.leave(2);
        assert!(places.enter());
        places.leave(2);
        assert!(places.enter() && places.enter() && !places.enter());
        assert!(!Places::alone(0).enter());
        let endless = Places::alone(u64::MAX);
        assert!((0..1000).all(|_| endless.enter()));
    }

    #[test]
    fn there_may_be_more_places_or_fewer() {
        let places = Places::alone(1);
        assert!(places.enter() && !places.enter());
        places.leave(1);
        places.limit(2);
        assert!(places.enter() && !places.enter());
        places.leave(1);
        places.limit(1);
        places.leave(1);
        assert!(!places.enter(), "one is inside");
    }

    #[test]
    fn the_sessions_of_other_workers_count() {
        let words = Words::default();
        let (one, other) = (places(&words, 0, 3), places(&words, 1, 3));
        assert!(one.enter() && other.enter() && one.enter());
        assert_eq!(read(&words), [2, 1]);
        assert!(!one.enter() && !other.enter());
        one.leave(1);
        other.leave(2);
        assert_eq!(read(&words), [2, 0]);
        assert!(other.enter());
        words[0].store(0, Ordering::SeqCst); // it was started anew
        assert!(other.enter() && other.enter() && !other.enter());
        drop((one, other));
        assert_eq!(Arc::strong_count(&words), 1);
    }

    #[test]
    fn never_are_there_more_than_the_most() {
        const MOST: u64 = 3;
        let (words, inside) = (Words::default(), AtomicU64::new(0));
        thread::scope(|scope| {
            for own in [0, 1, 0, 1] {
                let (places, inside) = (places(&words, own, MOST), &inside);
                scope.spawn(move || {
                    for _ in 0..20_000 {
                        if places.enter() {
                            let count = inside.fetch_add(1, Ordering::SeqCst) + 1;
                            assert!(count <= MOST, "{count} at once");
                            thread::yield_now();
                            inside.fetch_sub(1, Ordering::SeqCst);
                        }
                        places.leave(1);
                    }
                });
            }
        });
        assert_eq!(read(&words), [0, 0]);
    }
}
