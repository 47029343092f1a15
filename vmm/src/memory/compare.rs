//! Comparison of pages, at the speed of memory wherever the C library comes from.

/// Bytes that are looked at together.
const STRIDE: usize = 256;

/// True when both hold the same bytes.
pub fn same(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let (ones, one_rest) = one.as_chunks::<STRIDE>();
    let (others, other_rest) = other.as_chunks::<STRIDE>();
    ones.iter().zip(others).all(|(one, other)| {
        one.iter().zip(other).fold(0, |differing, (one, other)| differing | (one ^ other)) == 0
    }) && one_rest == other_rest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn one_flipped_bit_is_seen(length in 1..9000_usize, at in any::<usize>(), bit in 0..8_u32) {
            let one: Vec<u8> = (0..length).map(|n| n as u8).collect();
            let mut other = one.clone();
            prop_assert!(same(&one, &other));
            other[at % length] ^= 1 << bit;
            prop_assert!(!same(&one, &other));
            prop_assert!(!same(&one, &one[1..]));
        }
    }
}
