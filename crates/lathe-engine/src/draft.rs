//! Drafts: tokens that are guessed to follow, to be computed together and checked.
//!
//! A draft is a point: the token that the model's own distribution gives at each place is drawn as it would be without a draft,
//! and the draft is followed as long as it has that token. So the answer is the same, token by token, and only its steps are
//! fewer.

/// The longest ending that is looked up.
const LONGEST: usize = 8;
/// The shortest: one token alone says little of what follows.
const SHORTEST: usize = 2;

/// What followed the ending of `tokens` where it was there before, at most `count` tokens: the longest ending counts, and of
/// its places the last one.
pub(crate) fn lookup(tokens: &[u32], count: usize) -> &[u32] {
    let (mut best, mut found) = (SHORTEST - 1, &[][..]);
    for start in (1..tokens.len()).rev() {
        let same = tokens[..start].iter().rev().zip(tokens.iter().rev()).take(LONGEST);
        let length = same.take_while(|(a, b)| a == b).count();
        if length > best {
            (best, found) = (length, &tokens[start..]);
            if length == LONGEST {
                break;
            }
        }
    }
    &found[..count.min(found.len())]
}

#[cfg(test)]
mod tests {
    use super::lookup;

    #[test]
    fn the_longest_and_then_the_last_ending_counts() {
        let cases: [(&[u32], usize, &[u32]); 6] = [
            (&[], 4, &[]),
            (&[1, 2, 3], 4, &[]),
            (&[5, 1, 5], 4, &[]),
            (&[1, 2, 7, 1, 2, 8, 1, 2], 2, &[8, 1]),
            (&[3, 1, 2, 7, 4, 1, 2, 8, 3, 1, 2], 1, &[7]),
            (&[4, 4, 4, 4], 9, &[4]),
        ];
        for (tokens, count, expected) in cases {
            assert_eq!(lookup(tokens, count), expected, "{tokens:?}");
        }
    }
}
