//! Tickets by which players come back without a whole handshake: stateless, so at any worker of any pod.
//!
//! Each is sealed under a key that everybody derives alike, from a secret of the configuration and the hour. Who has the
//! secret of one ssl object's policy opens no ticket of another's (`Server::new` is told which secrets). A key seals for one
//! hour and opens for one more; what rustls puts into a ticket names the server, and it takes back nobody under another name.

use std::sync::{Arc, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf;
use rustls::server::ProducesTickets;

/// Seconds for which a key seals.
pub(super) const PERIOD: u64 = 3600;
/// Bytes of a ticket before what is sealed: the number of its period, a part of its key's name, and the nonce.
const PERIOD_BYTES: usize = 8;
const NONCE_BYTES: usize = 12;
const HEAD: usize = PERIOD_BYTES + NONCE_BYTES;

/// Makes and opens tickets.
pub(super) struct Tickets {
    secrets: Vec<[u8; 32]>, // the first one seals
    keys: RwLock<Arc<Keys>>,
    now: fn() -> u64,
}

/// Those of one period and the one before and after: clocks of pods are not quite the same.
#[derive(Default)]
struct Keys {
    period: u64,
    by_period: Vec<(u64, Vec<RandomizedNonceKey>)>,
}

impl std::fmt::Debug for Tickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tickets").finish_non_exhaustive()
    }
}

impl Tickets {
    pub(super) fn new(secrets: Vec<[u8; 32]>) -> Self {
        Self::at(secrets, || {
            let since = SystemTime::now().duration_since(UNIX_EPOCH);
            since.map_or(0, |since| since.as_secs())
        })
    }

    /// `now`: Unix seconds.
    pub(super) fn at(secrets: Vec<[u8; 32]>, now: fn() -> u64) -> Self {
        Self {
            secrets,
            keys: RwLock::default(),
            now,
        }
    }

    fn keys(&self) -> Option<Arc<Keys>> {
        let period = (self.now)() / PERIOD;
        if let Ok(keys) = self.keys.read() {
            if keys.period == period && !keys.by_period.is_empty() {
                return Some(Arc::clone(&keys));
            }
        }
        let mut by_period = Vec::new();
        for one in [period, period.saturating_sub(1), period + 1] {
            let keys: Option<Vec<_>> = self.secrets.iter().map(|all| derive(all, one)).collect();
            by_period.push((one, keys?));
        }
        let keys = Arc::new(Keys { period, by_period });
        if let Ok(mut shared) = self.keys.write() {
            *shared = Arc::clone(&keys);
        }
        Some(keys)
    }
}

fn derive(secret: &[u8; 32], period: u64) -> Option<RandomizedNonceKey> {
    let key = hkdf::Salt::new(hkdf::HKDF_SHA256, b"sniproxy ticket").extract(secret);
    let number = period.to_be_bytes();
    let info = [&number[..]];
    let mut bytes = [0; 32];
    key.expand(&info, &AES_256_GCM)
        .ok()?
        .fill(&mut bytes)
        .ok()?;
    RandomizedNonceKey::new(&AES_256_GCM, &bytes).ok()
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        !self.secrets.is_empty()
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(PERIOD).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let keys = self.keys()?;
        let (period, keys) = keys.by_period.first()?;
        let number = period.to_be_bytes();
        let mut sealed = plain.to_vec();
        let nonce = keys
            .first()?
            .seal_in_place_append_tag(Aad::from(&number), &mut sealed)
            .ok()?;
        Some([&number[..], nonce.as_ref(), &sealed].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (head, sealed) = ticket.split_at_checked(HEAD)?;
        let (number, nonce) = head.split_at(PERIOD_BYTES);
        let period = u64::from_be_bytes(number.try_into().ok()?);
        let keys = self.keys()?;
        let (_, keys) = keys.by_period.iter().find(|(one, _)| *one == period)?;
        keys.iter().find_map(|key| {
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            let mut plain = sealed.to_vec();
            let count = key
                .open_in_place(nonce, Aad::from(number), &mut plain)
                .ok()?
                .len();
            plain.truncate(count);
            Some(plain)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: u64 = 500_000 * PERIOD + PERIOD / 2;

    fn tickets(secrets: &[u8], now: fn() -> u64) -> Tickets {
        Tickets::at(secrets.iter().map(|&one| [one; 32]).collect(), now)
    }

    #[test]
    fn whoever_has_the_secret_opens_it_and_nobody_else() {
        let ticket = tickets(&[1], || NOON).encrypt(b"state").unwrap();
        assert_eq!(
            tickets(&[1], || NOON).decrypt(&ticket).as_deref(),
            Some(&b"state"[..])
        );
        assert_eq!(tickets(&[2], || NOON).decrypt(&ticket), None);
        // A keyring whose first key is a new one: the one before still opens.
        assert!(tickets(&[3, 1], || NOON).decrypt(&ticket).is_some());
    }

    #[test]
    fn it_is_good_for_an_hour_or_two() {
        let ticket = tickets(&[1], || NOON).encrypt(b"state").unwrap();
        let rows: [(fn() -> u64, bool); 5] = [
            (|| NOON - PERIOD, true), // a clock that is behind
            (|| NOON + PERIOD, true),
            (|| NOON + PERIOD + PERIOD / 2 - 1, true),
            (|| NOON + PERIOD + PERIOD / 2, false),
            (|| NOON - 2 * PERIOD, false),
        ];
        for (place, (now, good)) in rows.into_iter().enumerate() {
            let opened = tickets(&[1], now).decrypt(&ticket);
            assert_eq!(opened.is_some(), good, "row {place}");
        }
    }

    #[test]
    fn one_that_was_touched_does_not_open() {
        let all = tickets(&[1], || NOON);
        let ticket = all.encrypt(b"state").unwrap();
        for place in 0..ticket.len() {
            let mut touched = ticket.clone();
            touched[place] ^= 1;
            assert_eq!(all.decrypt(&touched), None, "byte {place}");
        }
        for length in 0..ticket.len() {
            assert_eq!(all.decrypt(&ticket[..length]), None, "{length} bytes");
        }
    }

    #[test]
    fn two_of_the_same_are_not_alike() {
        let all = tickets(&[1], || NOON);
        assert_ne!(all.encrypt(b"state"), all.encrypt(b"state"));
    }
}
