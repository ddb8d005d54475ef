//! Text from tokens as they come: a character is shown when its last byte is there, never before.

use super::Tokenizer;

/// Turns a stream of tokens into pieces of text that each end at a character's end.
///
/// The pieces together are what [`Tokenizer::decode`] makes of all tokens at once.
#[derive(Clone, Debug, Default)]
pub struct StreamDecoder {
    /// The beginning of a character: at most three bytes between calls.
    pending: Vec<u8>,
}

impl StreamDecoder {
    /// A decoder at the start of a text.
    pub fn new() -> Self {
        Self::default()
    }

    /// The text that is complete with this token; perhaps none.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        self.push_bytes(tokenizer.token_bytes(id))
    }

    /// The text that is complete with these bytes; perhaps none.
    pub fn push_bytes(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let complete = self.pending.len() - unfinished(&self.pending);
        let rest = self.pending.split_off(complete);
        let whole = std::mem::replace(&mut self.pending, rest);
        String::from_utf8_lossy(&whole).into_owned()
    }

    /// What is left at the end, where the last character never became complete.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }
}

/// How many bytes at the end are the beginning of a character that more bytes could complete.
fn unfinished(bytes: &[u8]) -> usize {
    // The beginning of a character is at most three bytes long.
    (1..=bytes.len().min(3))
        .rev()
        .find(|&n| {
            let tail = &bytes[bytes.len() - n..];
            matches!(std::str::from_utf8(tail), Err(e) if e.valid_up_to() == 0 && e.error_len().is_none())
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn in_pieces(bytes: &[u8], size: usize) -> String {
        let mut stream = StreamDecoder::new();
        let mut text: String = bytes.chunks(size).map(|piece| stream.push_bytes(piece)).collect();
        text += &stream.finish();
        text
    }

    #[test]
    fn a_character_comes_whole() {
        let mut stream = StreamDecoder::new();
        let pieces: Vec<String> = "aé😀".bytes().map(|b| stream.push_bytes(&[b])).collect();
        assert_eq!(pieces, ["a", "", "é", "", "", "", "😀"]);
        assert_eq!(stream.push_bytes(&[0xf0, 0x9f]), "");
        assert_eq!(stream.push_bytes(b"x"), "\u{fffd}x");
        assert_eq!(stream.push_bytes(&[0xe2]), "");
        assert_eq!((stream.finish().as_str(), stream.finish().as_str()), ("\u{fffd}", ""));
    }

    proptest! {
        #[test]
        fn pieces_are_the_whole(text in "\\PC{0,20}", noise in prop::collection::vec(any::<u8>(), 0..12), size in 1usize..6) {
            prop_assert_eq!(in_pieces(text.as_bytes(), size), text.clone());
            let bytes = [noise.as_slice(), text.as_bytes(), &noise].concat();
            prop_assert_eq!(in_pieces(&bytes, size), String::from_utf8_lossy(&bytes));
        }
    }
}
