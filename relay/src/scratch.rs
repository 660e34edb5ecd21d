//! A buffer that is filled again and again, and whose bytes need not be zeroed each time before they are written.

use std::ops::Deref;

/// Bytes that were put in, one part behind another.
#[derive(Default)]
pub struct Scratch {
    bytes: Vec<u8>, // all that were ever in use
    used: usize,
}

impl Scratch {
    /// Makes room for more, and gives it out; whatever may stand there.
    pub fn grow(&mut self, count: usize) -> &mut [u8] {
        let start = self.used;
        self.used += count;
        if self.bytes.len() < self.used {
            self.bytes.resize(self.used, 0);
        }
        &mut self.bytes[start..self.used]
    }

    /// Puts bytes behind what is there.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.grow(bytes.len()).copy_from_slice(bytes);
    }

    /// Leaves the first ones alone in it.
    pub fn truncate(&mut self, count: usize) {
        self.used = self.used.min(count);
    }

    /// Leaves nothing in it.
    pub fn clear(&mut self) {
        self.used = 0;
    }
}

impl Deref for Scratch {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.used]
    }
}

#[cfg(test)]
mod tests {
    use super::Scratch;

    #[test]
    fn what_was_put_in_is_there_and_no_more() {
        let mut scratch = Scratch::default();
        scratch.extend_from_slice(b"longer than the next");
        scratch.truncate(6);
        assert_eq!(&scratch[..], b"longer");
        scratch.truncate(99);
        scratch.grow(2).copy_from_slice(b"st");
        assert_eq!(&scratch[..], b"longerst");
        scratch.clear();
        assert!(scratch.is_empty());
        scratch.extend_from_slice(b"next");
        assert_eq!(&scratch[..], b"next");
    }
}
