//! What an engine has to tell, and to whom it must be said that there is something.

use std::io;
use std::mem::take;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

/// What an engine has to tell. Each list has an eventfd that is readable while there is something in it.
pub(super) struct Told<E> {
    list: Mutex<Vec<E>>,
    news: OwnedFd,
}

impl<E> Told<E> {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            list: Mutex::default(),
            news: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    /// Adds what there is; `more` is empty after it.
    pub(super) fn tell(&self, more: &mut Vec<E>) {
        if !more.is_empty() {
            let mut list = lock(&self.list);
            let is_news = list.is_empty();
            list.append(more);
            if is_news {
                signal(&self.news);
            }
        }
    }

    pub(super) fn take(&self) -> Vec<E> {
        let mut list = lock(&self.list);
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.news, &mut count); // nothing there: a list taken before
        take(&mut *list)
    }

    /// What was told and not taken yet.
    pub(super) fn list(&self) -> MutexGuard<'_, Vec<E>> {
        lock(&self.list)
    }

    /// Readable while there is something.
    pub(super) fn news(&self) -> BorrowedFd<'_> {
        self.news.as_fd()
    }

    /// Makes whoever waits look, though there may be nothing.
    pub(super) fn signal(&self) {
        signal(&self.news);
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes an eventfd readable.
pub(super) fn signal(eventfd: &OwnedFd) {
    // It fails only when the counter is at its end, and then it is readable.
    let _ = rustix::io::write(eventfd, &1_u64.to_ne_bytes());
}
