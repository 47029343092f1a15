//! Merkle trees over SHA-256, in the form of RFC 6962 2.1: a leaf is hashed behind the byte 0x00,
//! a node behind 0x01, and a tree that is not full is split at the largest power of two.

use sha2::{Digest, Sha256};

/// SHA-256.
pub type Hash = [u8; 32];

const LEAF: [u8; 1] = [0];
const NODE: [u8; 1] = [1];

/// Hash of a leaf with this content.
pub fn leaf(content: &[u8]) -> Hash {
    Sha256::new().chain_update(LEAF).chain_update(content).finalize().into()
}

fn node(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update(NODE).chain_update(left).chain_update(right).finalize().into()
}

/// Builds a tree from left to right and keeps one hash for each height.
#[derive(Default)]
pub struct Tree {
    /// Roots of full trees, the largest first, with the height of each.
    full: Vec<(u32, Hash)>,
}

impl Tree {
    /// Adds the next leaf.
    pub fn push(&mut self, leaf: Hash) {
        let (mut height, mut hash) = (0, leaf);
        while let Some((_, left)) = self.full.pop_if(|(other, _)| *other == height) {
            hash = node(&left, &hash);
            height += 1;
        }
        self.full.push((height, hash));
    }

    /// The root; of no leaves at all it is the hash of nothing (RFC 6962 2.1).
    pub fn root(mut self) -> Hash {
        let Some((_, mut hash)) = self.full.pop() else { return Sha256::digest([]).into() };
        while let Some((_, left)) = self.full.pop() {
            hash = node(&left, &hash);
        }
        hash
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 6962 2.1, word for word.
    fn by_definition(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => Sha256::digest([]).into(),
            [one] => *one,
            more => {
                let (left, right) = more.split_at(more.len().next_power_of_two() / 2);
                node(&by_definition(left), &by_definition(right))
            }
        }
    }

    proptest! {
        #[test]
        fn trees_are_those_of_the_definition(count in 0_u32..300) {
            let leaves: Vec<Hash> = (0..count).map(|n| leaf(&n.to_le_bytes())).collect();
            let mut tree = Tree::default();
            for leaf in &leaves {
                tree.push(*leaf);
            }
            prop_assert_eq!(tree.root(), by_definition(&leaves));
        }
    }

    /// Known answers of other implementations of the same form.
    #[test]
    fn known_answers() {
        let hex =
            |hash: Hash| hash.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
        assert_eq!(
            hex(leaf(b"")),
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
        );
        let mut tree = Tree::default();
        tree.push(leaf(b""));
        tree.push(leaf(&[0]));
        assert_eq!(
            hex(tree.root()),
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"
        );
    }

    #[test]
    fn a_leaf_is_not_a_node() {
        let (left, right) = (leaf(b"a"), leaf(b"b"));
        assert_ne!(leaf(&[left, right].concat()), node(&left, &right));
    }
}
