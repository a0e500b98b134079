//! An Input turns the fuzzer's bytes into choices. It borrows them, and when they run out every choice is zero.

pub struct Input<'a> {
    bytes: &'a [u8],
}

impl<'a> Input<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Input { bytes }
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    pub fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// A choice of 0 to `most`.
    pub fn up_to(&mut self, most: usize) -> usize {
        usize::from(self.byte()) % (most + 1)
    }

    pub fn take(&mut self, most: usize) -> &'a [u8] {
        let (taken, rest) = self.bytes.split_at(most.min(self.bytes.len()));
        self.bytes = rest;
        taken
    }

    /// A piece whose length its first byte tells.
    pub fn piece(&mut self) -> &'a [u8] {
        let most = usize::from(self.byte());
        self.take(most)
    }

    pub fn rest(self) -> &'a [u8] {
        self.bytes
    }
}

/// Cuts bytes into pieces, of sizes drawn from one word: the same word cuts alike.
pub struct Splits {
    state: u64,
    /// The largest piece is about this many bytes.
    scale: u64,
}

impl Splits {
    pub fn new(word: u16) -> Self {
        Splits { state: u64::from(word) << 8 | 1, scale: 1 << (word % 11) }
    }

    /// The next piece's length, of `available` bytes (at least one).
    pub fn next(&mut self, available: usize) -> usize {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (((self.state >> 33) % self.scale) as usize + 1).min(available)
    }

    /// Where the pieces of `length` bytes end.
    pub fn ends(mut self, length: usize) -> Vec<usize> {
        let (mut ends, mut at) = (Vec::new(), 0);
        while at < length {
            at += self.next(length - at);
            ends.push(at);
        }
        ends
    }
}
