//! What was seen, as JSON.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::tls;

const MOST_CAUSES: usize = 20; // failures that are told apart

/// Latencies and failures since it was made.
pub struct Tally {
    began: Instant,
    latencies: Vec<u64>, // nanoseconds
    failures: BTreeMap<String, u64>,
}

impl Tally {
    /// An empty one.
    pub fn new() -> Self {
        Self {
            began: Instant::now(),
            latencies: Vec::new(),
            failures: BTreeMap::new(),
        }
    }

    /// Something took that long.
    pub fn took(&mut self, time: Duration) {
        self.latencies
            .push(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Something went wrong.
    pub fn failed(&mut self, cause: &str) {
        let known = self.failures.contains_key(cause) || self.failures.len() < MOST_CAUSES;
        let cause = if known { cause } else { "other" };
        *self.failures.entry(cause.to_owned()).or_default() += 1;
    }

    /// How many did.
    pub fn failures(&self) -> u64 {
        self.failures.values().sum()
    }

    /// All of it; times in microseconds.
    pub fn report(mut self) -> Value {
        self.latencies.sort_unstable();
        let last = self.latencies.len().saturating_sub(1);
        let share = |thousandths: usize| match self.latencies.get(last * thousandths / 1000) {
            Some(&nanoseconds) => json!(Duration::from_nanos(nanoseconds).as_secs_f64() * 1e6),
            None => Value::Null,
        };
        json!({
            "seconds": self.began.elapsed().as_secs_f64(),
            "count": self.latencies.len(),
            "latency_us": {
                "p50": share(500), "p90": share(900), "p99": share(990), "p999": share(999), "max": share(1000),
            },
            "whole_handshakes": tls::whole_handshakes(),
            "failed": self.failures(),
            "failures": self.failures,
        })
    }
}
