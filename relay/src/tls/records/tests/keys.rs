//! Keys that change on the way.

use super::*;

#[test]
fn other_keys_are_followed_and_answered_until_we_have_closed() {
    for piece in [5, 2] {
        for (asked, closed) in [(0, false), (1, false), (1, true)] {
            let mut pair = friends(true);
            let [client, server] = &mut pair;
            if closed {
                let mut out = Scratch::default();
                server.close(&mut out).unwrap();
            }
            let update = [KEY_UPDATE, 0, 0, 1, asked];
            let parts: Parts<'_> = update.chunks(piece).map(|part| (HANDSHAKE, part)).collect();
            let said = records(client, &parts);
            client.writing = renewed(client.renewal.as_mut().unwrap().writing().ok())
                .ok()
                .unwrap();
            let heard = hear(server, &said);
            assert_eq!(heard.went, Ok(said.len()));
            let answered = asked == 1 && !closed;
            assert_eq!(heard.answers.is_empty(), !answered);
            let said = words(client, b"up");
            assert_eq!(hear(server, &said).clear, b"up");
            assert_eq!(hear(client, &heard.answers).went, Ok(heard.answers.len()));
            if !closed {
                are_friends(&mut pair);
            }
        }
    }
}

#[test]
fn keys_are_renewed_by_whom_there_is_something_from() {
    let mut pair = friends(true);
    let [client, server] = &mut pair;
    for update in 0..=FRUITLESS {
        let mut out = Scratch::default();
        client.renew_writing(&mut out).ok().unwrap();
        let went = hear(server, &out).went;
        assert_eq!(went.is_ok(), update < FRUITLESS, "{went:?}");
    }
    let mut pair = friends(true);
    for _ in 0..3 * FRUITLESS {
        let mut out = Scratch::default();
        pair[0].renew_writing(&mut out).ok().unwrap();
        assert!(hear(&mut pair[1], &out).went.is_ok());
        are_friends(&mut pair);
    }
}

#[test]
fn a_key_is_not_used_more_often_than_it_may_be() {
    const LIMIT: u64 = 5;
    let mut pair = friends(true);
    for records in &mut pair {
        records.limit = LIMIT;
    }
    for _ in 0..20 {
        are_friends(&mut pair);
        assert!(pair.iter().all(|one| one.writing.records < LIMIT));
    }
    let [client, server] = &mut pair;
    let long: Vec<u8> = (0..=250).cycle().take(20 * FRAGMENT).collect();
    let said = words(client, &long);
    assert!(hear(server, &said).clear == long);
    let [mut client, mut server] = friends(false);
    client.limit = LIMIT;
    let mut out = Scratch::default();
    let failure = client.encrypt(&long, &mut out).unwrap_err();
    assert_eq!(failure.alert, Alert::None, "{failure}");
    let heard = hear(&mut server, &out).clear;
    assert!(long.starts_with(&heard) && heard.len() == 3 * FRAGMENT); // behind Finished
    assert_eq!(client.writing.records, LIMIT - 1);
}
