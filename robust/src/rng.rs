//! The one source of chance: everything that a history does is drawn from its
//! seed, so that the same seed gives the same plan on every machine.

/// SplitMix64: small, and good enough to draw plans from.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The sequence of one seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 when that is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next().checked_rem(bound).unwrap_or(0)
    }

    /// A number from `low` to `high`, both included.
    pub fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// An index into something of this length.
    pub fn index(&mut self, length: usize) -> usize {
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        usize::try_from(self.below(length)).unwrap_or(0)
    }

    /// True this often in a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of these.
    pub fn pick<T: Clone>(&mut self, choices: &[T]) -> Option<T> {
        choices.get(self.index(choices.len())).cloned()
    }

    /// One of these, each as often as its weight says.
    pub fn weighted<T: Clone>(&mut self, choices: &[(u64, T)]) -> Option<T> {
        let total = choices.iter().map(|(weight, _)| weight).sum();
        let mut drawn = self.below(total);
        for (weight, choice) in choices {
            if drawn < *weight {
                return Some(choice.clone());
            }
            drawn -= weight;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers_and_another_seed_others() {
        let draw = |seed| {
            let mut rng = Rng::new(seed);
            (0..20).map(|_| rng.below(1000)).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn weights_decide_how_often_something_is_drawn() {
        let mut rng = Rng::new(1);
        let choices = [(9, 'a'), (1, 'b'), (0, 'c')];
        let drawn: Vec<char> = (0..1000).filter_map(|_| rng.weighted(&choices)).collect();
        let count = |wanted| drawn.iter().filter(|drawn| **drawn == wanted).count();
        assert_eq!(drawn.len(), 1000);
        assert!((850..950).contains(&count('a')), "{}", count('a'));
        assert_eq!(count('c'), 0);
    }
}
