//! Defects of ours. A panic ends the session in whose turn it came, and not the thread in which all others live.
//!
//! Whoever has panicked is taken out whole, with all that it held, so that nothing that may be half done is gone on with. Where
//! that cannot be told (a panic in what is nobody's turn, or of a session that was just leaving) the engine ends: it takes
//! everybody's connections with it, and says so (`Handle::mishap`), since a process must not outlive it.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::{Arc, Once};

use super::waiting::Waiting;
use super::{End, Engine};

#[cfg(test)]
mod tests;

thread_local! {
    /// Where this thread has panicked last.
    static PLACE: Cell<Option<String>> = const { Cell::new(None) };
}

/// From now on it is known where a panic came; it is printed as ever.
pub(super) fn watch_for_panics() {
    static WATCHING: Once = Once::new();
    WATCHING.call_once(|| {
        let print = take_hook();
        set_hook(Box::new(move |info| {
            PLACE.set(info.location().map(ToString::to_string));
            print(info);
        }));
    });
}

/// What comes of some work, or what it panicked with, and where.
pub(super) fn caught<R>(work: impl FnOnce() -> R) -> Result<R, Arc<str>> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| {
        let place = PLACE.take().unwrap_or_default();
        format!("{} ({place})", words(&*payload)).into()
    })
}

fn words(payload: &(dyn Any + Send)) -> &str {
    let fixed = payload.downcast_ref::<&str>().copied();
    let made = || payload.downcast_ref::<String>().map(String::as_str);
    fixed.or_else(made).unwrap_or("a panic")
}

impl<T: Send + Sync> Engine<T> {
    /// Until it is told to stop, or breaks; nobody is left then.
    pub(super) fn run(mut self) {
        watch_for_panics();
        let shared = Arc::clone(&self.shared);
        if let Err(mishap) = caught(|| self.live()) {
            shared.note(mishap);
        }
        // Whatever comes of it, all sockets are closed after it: they go with the engine.
        if let Err(mishap) = caught(move || self.wind_up()) {
            shared.note(mishap);
        }
        shared.close();
    }

    /// A session's turn; a panic in it ends this session alone.
    pub(super) fn turn_of(&mut self, key: usize, turn: impl FnOnce(&mut Self)) {
        let token = self.entries[key].token;
        if let Err(mishap) = caught(|| turn(self)) {
            let left = self.keys.get(&token);
            // One that was on its way out may never be told of, which only the end of all can make good.
            let key = *left.unwrap_or_else(|| panic!("{mishap}"));
            self.end(key, End::Broken(mishap));
        }
    }

    /// The turn of somebody who waits. Who has become no session by then is gone: its connection is closed, without a line.
    pub(super) fn turn_of_guest(&mut self, guest: Waiting, turn: impl FnOnce(&mut Self, Waiting)) {
        let token = guest.token;
        if let Err(mishap) = caught(|| turn(self, guest)) {
            match self.keys.get(&token) {
                Some(&key) => self.end(key, End::Broken(mishap)),
                None => self.shared.places.leave(1),
            }
        }
    }
}
