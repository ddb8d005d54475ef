//! The byte alphabet of GPT-2: a vocabulary is stored as text in which one printable character stands for each byte.
//! Printable Latin-1 characters stand for themselves; the other 68 bytes are U+0100 and on, in order.

const FIRST_MOVED: usize = 256;
const MOVED: usize = 68;

const fn is_printable(b: usize) -> bool {
    matches!(b, 33..=126 | 161..=172 | 174..=255)
}

/// The byte of each character, or -1.
const BYTES: [i16; FIRST_MOVED + MOVED] = {
    let mut table = [-1; FIRST_MOVED + MOVED];
    let (mut b, mut moved) = (0, FIRST_MOVED);
    while b < 256 {
        if is_printable(b) {
            table[b] = b as i16;
        } else {
            table[moved] = b as i16;
            moved += 1;
        }
        b += 1;
    }
    table
};

/// The byte that a character stands for.
fn byte(c: char) -> Option<u8> {
    BYTES.get(c as usize).and_then(|&b| u8::try_from(b).ok())
}

/// Appends the bytes that `token` stands for; `false`, and nothing appended, where it is not in the alphabet.
pub(super) fn append_bytes(token: &str, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    for c in token.chars() {
        match byte(c) {
            Some(b) => out.push(b),
            None => {
                out.truncate(start);
                return false;
            }
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_one_character() {
        let mut seen = [0; 256];
        for c in (0..1000).filter_map(char::from_u32) {
            if let Some(b) = byte(c) {
                seen[usize::from(b)] += 1;
            }
        }
        assert_eq!(seen, [1; 256]);
        assert_eq!((byte('A'), byte('Ġ'), byte('Ċ'), byte(' ')), (Some(b'A'), Some(b' '), Some(b'\n'), None));
    }

    #[test]
    fn a_token_outside_the_alphabet_leaves_nothing() {
        let mut out = vec![1];
        assert!(!append_bytes("ab日", &mut out));
        assert!(append_bytes("Ġb", &mut out));
        assert_eq!(out, [1, b' ', b'b']);
    }
}
