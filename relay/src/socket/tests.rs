//! What is owed, and how many bytes in clear count as paid.

use std::io::Read;
use std::os::unix::net::UnixStream;

use super::*;

/// A pseudo-random generator (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) >> 16).unwrap() % end
    }
}

#[test]
fn a_share_never_falls_and_is_all_at_the_end_alone() {
    let mut dice = Dice(1);
    for _ in 0..2000 {
        let all = 1 + dice.below(50);
        let clear = dice.below(60); // more than there are bytes: nobody does that, and it holds
        let mut before = 0;
        for paid in 0..=all {
            let share = in_proportion(clear, paid, all);
            assert!(
                before <= share && share <= clear,
                "{clear}, {paid} of {all}"
            );
            if share == clear && clear > 0 {
                assert_eq!(paid, all, "{clear}");
            }
            before = share;
        }
        assert_eq!(before, clear);
        assert_eq!(in_proportion(clear, 0, all), 0);
    }
    assert_eq!(in_proportion(0, 0, 0), 0);
    let most = usize::MAX;
    assert_eq!(in_proportion(most, most - 1, most), most - 1);
}

/// However much is owed when, and however much is taken when: bytes come in order, and those in clear count once.
#[test]
fn debts_are_paid_in_order_and_counted_once() {
    for seed in 0..300 {
        let mut dice = Dice(seed);
        let (mut reader, writer) = UnixStream::pair().unwrap();
        for one in [&reader, &writer] {
            one.set_nonblocking(true).unwrap();
        }
        rustix::net::sockopt::set_socket_send_buffer_size(&writer, 4096).unwrap();
        let mut socket = Socket::new(writer.into());
        let (mut owed, mut clear, mut counted) = (Vec::new(), 0, 0);
        let mut heard = Vec::new();
        for step in 0.. {
            if step < 40 && dice.below(3) > 0 {
                let bytes: Vec<u8> = (0..=dice.below(9000))
                    .map(|_| u8::try_from(dice.below(256)).unwrap())
                    .collect();
                let stands_for = [0, bytes.len(), dice.below(bytes.len())][dice.below(3)];
                socket.owe(&bytes, stands_for);
                owed.extend(bytes);
                clear += stands_for;
            }
            let pays = dice.below(2) == 0;
            if let Some(mut debt) = pays.then(|| socket.debt.take()).flatten() {
                let left = debt.left();
                let (count, all) = debt.pay(&mut socket).unwrap();
                counted += count;
                assert!(counted <= clear && debt.left() <= left);
                assert!(debt.held() >= debt.left());
                if all {
                    assert_eq!((counted, debt.left()), (clear, 0), "seed {seed}");
                } else {
                    socket.debt = Some(debt);
                }
            }
            let mut buffer = vec![0; 1 + dice.below(5000)];
            if let Ok(count) = reader.read(&mut buffer) {
                heard.extend_from_slice(&buffer[..count]);
            }
            if step >= 40 && socket.debt.is_none() && heard.len() == owed.len() {
                break;
            }
        }
        assert!(heard == owed, "seed {seed}");
        assert_eq!(counted, clear, "seed {seed}");
    }
}

#[test]
fn what_is_left_is_what_was_not_paid() {
    assert!(Owed::bytes(Vec::new(), 0).is_none());
    let owed = Bytes {
        all: b"paid and left".to_vec(),
        paid: 5,
        clear: 13,
        counted: 5,
    };
    assert_eq!(Owed::Bytes(owed).left(), 8);
    let Owed::Bytes(owed) = *Owed::bytes(b"all".to_vec(), 3).unwrap() else {
        panic!("bytes");
    };
    assert_eq!(owed.left(), b"all");
}
