//! When sessions end by themselves, and when those go on that have a cap on their bandwidth.

use std::mem::take;

use super::{Engine, NEVER};
use crate::session::End;

impl<T: Send + Sync> Engine<T> {
    /// It has done something since the last tick.
    pub(super) fn activate(&mut self, key: usize) {
        let entry = &mut self.entries[key];
        if !entry.active {
            entry.active = true;
            self.active.push(key);
        }
    }

    pub(super) fn tick(&mut self, now: u64) {
        self.now = now;
        self.clear_pending(); // before deadlines: whoever is no session yet is handed over
        for key in take(&mut self.active) {
            self.note(key);
        }
        while let Some((bucket, keys)) = self.deadlines.due(now) {
            for key in keys {
                self.look_at(key, bucket);
            }
        }
        self.resume();
    }

    /// Dates what a session did since the last tick: as late as it may have been, so that no timeout comes early.
    pub(super) fn note(&mut self, key: usize) {
        let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.active) else {
            return; // it has ended
        };
        entry.active = false;
        entry.last_active = self.now;
        if entry.ends_at == NEVER {
            let lasts = entry.times.session.unwrap_or(NEVER);
            entry.ends_at = self.now.saturating_add(lasts);
        }
        if take(&mut entry.file) {
            entry.bucket = self.deadlines.file(key, entry.due());
        }
    }

    /// Gives everybody a time to end by, one after another, unless there is a sooner one.
    pub(super) fn drain(&mut self, after: u64, spread: u64) {
        let count = self.entries.len() as u128;
        for (turn, (key, entry)) in self.entries.iter_mut().enumerate() {
            let share = u64::try_from(u128::from(spread) * turn as u128 / count);
            let wait = after.saturating_add(share.unwrap_or(spread));
            let drains_at = self.now.saturating_add(wait);
            if drains_at < entry.drains_at {
                entry.drains_at = drains_at;
                // One that is new is dated and filed at the next tick.
                if entry.bucket != NEVER {
                    entry.bucket = self.deadlines.file(key, entry.due());
                }
            }
        }
    }

    /// Takes those times back. Who was filed for one is looked at then, and filed anew.
    pub(super) fn undrain(&mut self) {
        for (_, entry) in &mut self.entries {
            entry.drains_at = NEVER;
        }
    }

    /// Ends a session whose time has come, or files it anew. It may be gone, or filed elsewhere meanwhile.
    pub(super) fn look_at(&mut self, key: usize, bucket: u64) {
        let Some(entry) = self.entries.get_mut(key).filter(|one| one.bucket == bucket) else {
            return;
        };
        if entry.due() > self.now {
            entry.bucket = self.deadlines.file(key, entry.due());
        } else if entry.drains_at.min(entry.ends_at) <= self.now {
            let is_drained = entry.drains_at < entry.ends_at;
            let end = if is_drained {
                End::Drained
            } else {
                End::TimeUp
            };
            self.end(key, end);
        } else if let Some(first) = entry.session.first_end {
            self.end(key, End::NeverClosed(first));
        } else {
            self.end(key, End::Idle);
        }
    }

    /// Lets those go on whose allowance has grown.
    pub(super) fn go_on_paced(&mut self) {
        if self.paced.is_empty() {
            return;
        }
        let now = self.microseconds();
        while let Some((due, key)) = self.paced.pop_first() {
            if due > now {
                self.paced.insert((due, key));
                return;
            }
            // It may be gone, or wait for another time.
            let pace = self.entries.get_mut(key).and_then(|one| one.pace.as_mut());
            if let Some(pace) = pace.filter(|pace| pace.due == Some(due)) {
                pace.due = None;
                self.move_bytes(key);
            }
        }
    }

    /// Of a clock that is for pacing only.
    pub(super) fn microseconds(&self) -> u64 {
        u64::try_from(self.clock.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}
