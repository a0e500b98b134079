//! A Token names one slot of a reactor's slab, and which of its successive tenants is meant.

/// The slot's index and the tenant's generation, as one 64-bit word for the kernel to carry.
///
/// An event whose generation is not its slot's present one is stale: it was meant for a descriptor that has
/// been closed since, and must never reach the successor.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Token {
    pub index: u32,
    pub generation: u32,
}

impl Token {
    pub const fn new(index: u32, generation: u32) -> Self {
        Token { index, generation }
    }

    pub const fn to_u64(self) -> u64 {
        (self.generation as u64) << 32 | self.index as u64
    }

    pub const fn from_u64(word: u64) -> Self {
        Token { index: word as u32, generation: (word >> 32) as u32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_the_kernel_s_word() {
        let token = Token::new(7, u32::MAX);
        assert_eq!(Token::from_u64(token.to_u64()), token);
    }
}
