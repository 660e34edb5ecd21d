//! One session without an engine, with TLS on one side or both, and the two who play.

use _relay::session::{End, Side};

use super::Peer;
use super::party::{Party, friends};
use super::table::{SIDES, Table};

/// A peer, its TLS where it has one, and what has not gone out of its records yet.
struct Mouth {
    party: Option<Party>,
    unsent: Vec<u8>,
    taken: usize, // of what the peer has heard
}

/// A table where some speak TLS.
pub struct SealedTable {
    /// The session and both peers' sockets; what they say and hear there are records.
    pub table: Table,
    mouths: [Mouth; 2],
}

impl SealedTable {
    /// TLS (1.2, 1.3) on a side, or none; the handshake is over. Nobody has said anything yet but `first`.
    pub fn lay(
        kernel_buffer: Option<usize>,
        buffer_size: usize,
        first: &[u8],
        tls: [Option<(bool, bool)>; 2],
    ) -> Self {
        let mut table = Table::lay(kernel_buffer, buffer_size, first);
        let mouths = SIDES.map(|side| {
            let party = tls[side as usize].map(|versions| {
                let (client, server) = friends(versions);
                // The relay is the player's server and the server's client.
                let (ours, theirs) = match side {
                    Side::Client => (server, client),
                    Side::Upstream => (client, server),
                };
                table.seal(side, Box::new(ours.tls));
                theirs
            });
            Mouth {
                party,
                unsent: Vec::new(),
                taken: 0,
            }
        });
        Self { table, mouths }
    }

    /// A side's socket.
    pub fn peer(&mut self, side: Side) -> &mut Peer {
        self.table.peer(side)
    }

    /// A side's TLS.
    pub fn party(&mut self, side: Side) -> &mut Party {
        self.mouths[side as usize].party.as_mut().unwrap()
    }

    /// Says it, as far as the kernel takes it; `utter` goes on.
    pub fn say(&mut self, side: Side, bytes: &[u8]) {
        let mouth = &mut self.mouths[side as usize];
        match &mut mouth.party {
            Some(party) => {
                party.say(bytes);
                mouth.unsent.append(&mut party.out);
            }
            None => mouth.unsent.extend_from_slice(bytes),
        }
        self.utter(side, usize::MAX);
    }

    /// Sends bytes as they are.
    pub fn say_raw(&mut self, side: Side, bytes: &[u8]) {
        self.mouths[side as usize].unsent.extend_from_slice(bytes);
        self.utter(side, usize::MAX);
    }

    /// Goes on with what was said, for so many bytes on the wire; whether that was all.
    pub fn utter(&mut self, side: Side, most: usize) -> bool {
        let mouth = &mut self.mouths[side as usize];
        if let Some(party) = &mut mouth.party {
            mouth.unsent.append(&mut party.out); // answers
        }
        let most = most.min(mouth.unsent.len());
        if most > 0 {
            let count = self.table.peer(side).say(&mouth.unsent[..most]);
            mouth.unsent.drain(..count);
        }
        mouth.unsent.is_empty()
    }

    /// Says that nothing more comes, by TLS where there is some; the socket's end is `end`'s.
    pub fn close(&mut self, side: Side) {
        if let Some(party) = &mut self.mouths[side as usize].party {
            party.close();
        }
        self.utter(side, usize::MAX);
    }

    /// The end of a side's socket, after what it has said.
    pub fn end(&mut self, side: Side) {
        assert!(self.utter(side, usize::MAX), "not all said");
        self.table.peer(side).end();
    }

    /// Takes up to so many bytes of the wire.
    pub fn hear(&mut self, side: Side, most: usize) {
        let (peer, mouth) = (
            self.table.peers[side as usize].as_mut().unwrap(),
            &mut self.mouths[side as usize],
        );
        peer.hear(most);
        if let Some(party) = &mut mouth.party {
            let news = &peer.heard[mouth.taken..];
            if !news.is_empty() {
                party.hear(news);
            }
        }
        mouth.taken = peer.heard.len();
    }

    /// In clear.
    pub fn heard(&self, side: Side) -> &[u8] {
        match &self.mouths[side as usize].party {
            Some(party) => &party.heard,
            None => &self.table.peers[side as usize].as_ref().unwrap().heard,
        }
    }

    /// Whether it was told of the other's end, by TLS where there is some, and the socket's.
    pub fn is_told(&self, side: Side) -> bool {
        let party = self.mouths[side as usize].party.as_ref();
        let told = party.is_none_or(|party| party.tls.has_ended());
        told && self.table.peers[side as usize].as_ref().unwrap().told
    }

    /// Both go on saying and hearing, and the session moving, until it is so.
    pub fn until(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        super::until(what, || {
            for side in SIDES {
                self.utter(side, usize::MAX);
            }
            self.table.turn().unwrap();
            for side in SIDES {
                self.hear(side, 1 << 16);
            }
            is_so(self)
        });
    }

    /// The same until the session fails.
    pub fn failure(&mut self) -> End {
        let mut end = None;
        super::until("failure", || {
            for side in SIDES {
                self.utter(side, usize::MAX);
            }
            end = self.table.turn().err();
            for side in SIDES {
                self.hear(side, 1 << 16);
            }
            end.is_some()
        });
        end.unwrap()
    }
}
