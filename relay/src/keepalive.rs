//! When the kernel asks whether the other side still lives.

use std::time::Duration;

/// A fifth of the time at most is taken off, by chance: sessions that began together, as after the restart of a game server,
/// would be asked together for ever, and a burst of thousands of packets loses some. Whole seconds; one at least.
#[must_use]
pub fn spread(idle: Duration, chance: u64) -> Duration {
    let seconds = idle.as_secs().max(1);
    Duration::from_secs(seconds - chance % (seconds / 5 + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_lies_between_four_fifths_and_the_whole() {
        for (idle, least) in [(0, 1), (1, 1), (4, 4), (5, 4), (300, 240)] {
            let found: Vec<u64> = (0..1000)
                .map(|chance| spread(Duration::from_secs(idle), chance).as_secs())
                .collect();
            assert_eq!(found.iter().min(), Some(&least));
            assert_eq!(found.iter().max(), Some(&idle.max(1)));
        }
    }
}
