//! Owns a set of nodes ordered by score: one bitmap of node places for each score that occurs. Called by the index. It must
//! hold each node at one score at most.
//!
//! There are few different scores (they are whole points) and many nodes, and a decision moves one node from one score to
//! another: two bits. A tree of (score, node) pairs does the same in several cache misses each, which is what counts when
//! many indexes follow the same change log.

/// Nodes by score.
#[derive(Debug, Default)]
pub struct Levels {
    /// In ascending order of scores; none is empty.
    levels: Vec<Level>,
    nodes: usize,
    /// Bitmaps for levels to come, all zero.
    spare: Vec<Vec<u64>>,
}

#[derive(Debug)]
struct Level {
    score: i64,
    nodes: usize,
    bits: Vec<u64>,
}

/// Bitmaps kept for later.
const SPARE_MAX: usize = 4;

impl Levels {
    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.nodes
    }

    /// Whether there is no node.
    pub fn is_empty(&self) -> bool {
        self.nodes == 0
    }

    /// Adds a node that is not there.
    pub fn insert(&mut self, score: i64, place: u32) {
        let at = match self.levels.binary_search_by_key(&score, |level| level.score) {
            Ok(at) => at,
            Err(at) => {
                let bits = self.spare.pop().unwrap_or_default();
                self.levels.insert(at, Level { score, nodes: 0, bits });
                at
            }
        };
        let level = &mut self.levels[at];
        let word = place as usize / 64;
        if level.bits.len() <= word {
            level.bits.resize(word + 1, 0);
        }
        level.bits[word] |= 1 << (place % 64);
        level.nodes += 1;
        self.nodes += 1;
    }

    /// Takes out a node that is there at that score.
    pub fn remove(&mut self, score: i64, place: u32) {
        let at = self
            .levels
            .binary_search_by_key(&score, |level| level.score)
            .expect("the node has this score");
        let level = &mut self.levels[at];
        level.bits[place as usize / 64] &= !(1 << (place % 64));
        level.nodes -= 1;
        self.nodes -= 1;
        if level.nodes == 0 {
            let level = self.levels.remove(at);
            if self.spare.len() < SPARE_MAX {
                self.spare.push(level.bits);
            }
        }
    }

    /// The highest score.
    pub fn top(&self) -> Option<i64> {
        self.levels.last().map(|level| level.score)
    }

    /// Of the nodes with the highest score, the first at or after a place, going round.
    pub fn best_from(&self, start: u32) -> Option<u32> {
        let bits = &self.levels.last()?.bits;
        let first = start as usize / 64;
        let masked = bits.get(first).map_or(0, |word| word & (u64::MAX << (start % 64)));
        if masked != 0 {
            return Some(first as u32 * 64 + masked.trailing_zeros());
        }
        let find = |from: usize, to: usize| {
            let words = bits.get(from..to.min(bits.len()))?;
            let at = words.iter().position(|word| *word != 0)?;
            Some((from + at) as u32 * 64 + words[at].trailing_zeros())
        };
        find(first + 1, bits.len()).or_else(|| find(0, first + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn levels_answer_as_a_sorted_set(moves in prop::collection::vec((0u32..300, -3i64..4), 1..200), start in 0u32..400) {
            let mut levels = Levels::default();
            let mut set: BTreeSet<(i64, u32)> = BTreeSet::new();
            for (place, score) in moves {
                let old = set.iter().find(|(_, other)| *other == place).copied();
                if let Some((old, _)) = old {
                    levels.remove(old, place);
                    set.remove(&(old, place));
                }
                // Every seventh move only takes the node out.
                if place % 7 != 0 || old.is_none() {
                    levels.insert(score, place);
                    set.insert((score, place));
                }
                let top = set.last().map(|(score, _)| *score);
                prop_assert_eq!(levels.top(), top);
                prop_assert_eq!(levels.len(), set.len());
                prop_assert_eq!(levels.is_empty(), set.is_empty());
                let best = top.and_then(|top| {
                    let after = set.range((top, start)..=(top, u32::MAX)).next();
                    after.or_else(|| set.range((top, 0)..).next()).map(|(_, place)| *place)
                });
                prop_assert_eq!(levels.best_from(start), best);
            }
        }
    }
}
