//! How many sessions there are, in words of memory that the workers of a pod share: each writes its own and reads all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The words. Whoever comes adds itself first and looks at the sum after, so `most` is never passed.
pub struct Places {
    own: *const AtomicU64,
    all: Box<[*const AtomicU64]>,
    most: u64,
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
            most,
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
        sum <= self.most
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
