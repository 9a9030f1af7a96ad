//! Chance for the seeded worlds of the gate and of waves.

/// Numbers from a seed (xorshift): each run is the same.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    pub(super) fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.roll(length as u64)).expect("because it is small")
    }
}
