//! Sessions in the hands of an engine.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use _relay::engine::{Ended, Handle, Times};
use _relay::session::Session;

use super::{Peer, open_doors, pair, until};

/// Milliseconds that never come.
pub const LONG: u64 = 1 << 40;

/// No timeout that a test could reach.
pub const ENDLESS: Times = Times {
    idle: LONG,
    half_close: LONG,
    session: None,
    bandwidth: None,
};

/// The engine's side of a session's token, and the two who play.
pub struct Play {
    /// The session.
    pub token: u64,
    /// The client's peer.
    pub player: Peer,
    /// The upstream's.
    pub server: Peer,
}

impl Play {
    /// A session in the engine's hands.
    pub fn begin(handle: &Handle, times: Times, kernel_buffer: Option<usize>) -> Self {
        let (player, client) = pair(kernel_buffer);
        let (server, upstream) = pair(kernel_buffer);
        let token = handle.adopt(Session::new(client, upstream, Vec::new()), times, ());
        Self {
            token,
            player,
            server,
        }
    }

    /// One byte from the player, heard by the server.
    pub fn ask(&mut self) {
        pass(&mut self.player, &mut self.server);
    }

    /// One byte from the server, heard by the player.
    pub fn answer(&mut self) {
        pass(&mut self.server, &mut self.player);
    }
}

/// One byte from one peer to the other.
pub fn pass(from: &mut Peer, to: &mut Peer) {
    let count = to.heard.len() + 1;
    assert_eq!(from.say(b"x"), 1);
    until("a byte", || {
        to.hear(1);
        to.heard.len() == count
    });
}

/// The end of one peer, heard by the other.
pub fn pass_the_end(from: &Peer, to: &mut Peer) {
    from.end();
    until("the end", || {
        to.hear(1);
        to.told
    });
}

/// Waits until the engine has done what it was told to, and has reported what came of it.
pub fn settle<T: Send + Sync>(handle: &Handle<T>) {
    // The first answer comes in the midst of a turn, the second in a later one.
    handle.counts(0);
    handle.counts(0);
}

/// Waits for that many ends.
pub fn ends(handle: &Handle, count: usize) -> HashMap<u64, Ended> {
    let mut found = HashMap::new();
    until("ends", || {
        for one in handle.ended() {
            assert_eq!(found.insert(one.token, one), None, "ended twice");
        }
        found.len() >= count
    });
    assert_eq!(found.len(), count, "more ends than sessions");
    found
}

/// What is open in this process.
pub fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// The engines' threads in this process.
pub fn engines() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    tasks
        .filter(|task| {
            let name = task.as_ref().unwrap().path().join("comm");
            std::fs::read_to_string(name).is_ok_and(|name| name.trim() == "relay")
        })
        .count()
}

/// Descriptors are the whole process's, so the tests that count them take turns. Opens what `pair` keeps, too.
pub fn alone(kernel_buffers: &[Option<usize>]) -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    open_doors(kernel_buffers);
    until("the last test's end", || engines() == 0);
    turn
}

/// Nothing more is there than before. A thread that was joined is listed for a moment longer.
pub fn nothing_is_left(before: usize) {
    assert_eq!(open_files(), before);
    until("the thread's end", || engines() == 0);
}
