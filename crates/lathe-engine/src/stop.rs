//! Text from tokens as it may be shown: whole characters only, and nothing that could be the beginning of a stop string.

use lathe_models::{StreamDecoder, Tokenizer};

/// Turns one answer's tokens into text, up to the first stop string.
///
/// Of several stop strings the one that ends first counts, and of those that end together the longest; so the text
/// does not depend on how it was cut into tokens.
///
/// ```
/// use lathe_engine::TextStream;
/// let mut text = TextStream::new(&["\n\n".to_owned()]);
/// assert_eq!(text.push_bytes(b"One line.\n"), "One line.");
/// assert_eq!(text.push_bytes(b"\nAnother"), "");
/// assert!(text.stopped());
/// assert_eq!(text.finish(), "");
/// ```
#[derive(Clone, Debug, Default)]
pub struct TextStream {
    decoder: StreamDecoder,
    stops: Vec<String>,
    /// The end of the text so far, which a stop string may begin with.
    held: String,
    stopped: Option<usize>,
}

impl TextStream {
    /// A stream at the start of an answer; empty stop strings are ignored.
    pub fn new(stops: &[String]) -> TextStream {
        let stops = stops.iter().filter(|stop| !stop.is_empty()).cloned().collect();
        TextStream { stops, ..TextStream::default() }
    }

    /// The text that can be shown with this token; control tokens have none.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        match tokenizer.is_control(id) {
            true => String::new(),
            false => self.push_bytes(tokenizer.token_bytes(id)),
        }
    }

    /// The text that can be shown with these bytes.
    pub fn push_bytes(&mut self, bytes: &[u8]) -> String {
        let text = self.decoder.push_bytes(bytes);
        self.push_text(&text)
    }

    /// The rest of the text, at the end of the answer.
    pub fn finish(&mut self) -> String {
        let last = self.decoder.finish();
        let mut text = self.push_text(&last);
        text += &std::mem::take(&mut self.held);
        text
    }

    /// Whether a stop string has come; the text is over then.
    pub fn stopped(&self) -> bool {
        self.stopped.is_some()
    }

    /// The stop string that has come.
    pub fn stop(&self) -> Option<&str> {
        self.stopped.map(|index| self.stops[index].as_str())
    }

    fn push_text(&mut self, text: &str) -> String {
        if self.stopped() {
            return String::new();
        }
        self.held += text;
        if let Some((start, stop)) = self.first_stop() {
            self.stopped = Some(stop);
            let mut held = std::mem::take(&mut self.held);
            held.truncate(start);
            return held;
        }
        let held = self.held.split_off(self.held.len() - self.possible());
        std::mem::replace(&mut self.held, held)
    }

    /// Where the first stop string in the held text begins, and which it is.
    fn first_stop(&self) -> Option<(usize, usize)> {
        let stops = self.stops.iter().enumerate();
        let found =
            stops.filter_map(|(index, stop)| Some((self.held.find(stop.as_str())?, stop.len(), index)));
        found
            .min_by_key(|&(start, length, _)| (start + length, start))
            .map(|(start, _, index)| (start, index))
    }

    /// The length of the longest end of the held text that a stop string begins with.
    fn possible(&self) -> usize {
        let held = self.held.as_str();
        let longest = |stop: &String| {
            let ends = held.char_indices().map(|(at, _)| &held[at..]);
            ends.filter(|end| stop.starts_with(end)).map(str::len).max().unwrap_or(0)
        };
        self.stops.iter().map(longest).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The text before the stop string that ends first: tries every end.
    fn naive(text: &str, stops: &[String]) -> String {
        for end in 0..=text.len() {
            let Some(upto) = text.get(..end) else { continue };
            let ending = stops.iter().filter(|stop| !stop.is_empty() && upto.ends_with(stop.as_str()));
            if let Some(longest) = ending.map(String::len).max() {
                return upto[..end - longest].to_owned();
            }
        }
        text.to_owned()
    }

    #[test]
    fn a_possible_stop_is_held_back_and_then_shown() {
        let mut stream = TextStream::new(&["<end>".into()]);
        let pieces = ["a<", "en", "x", "<e"].map(|piece| stream.push_bytes(piece.as_bytes()));
        assert_eq!(pieces, ["a", "", "<enx", ""]);
        assert_eq!((stream.finish().as_str(), stream.stopped()), ("<e", false));
    }

    proptest! {
        #[test]
        fn any_cutting_gives_the_same_text(
            text in "[ab é😀]{0,24}",
            stops in prop::collection::vec("[ab é😀]{0,4}", 0..4),
            size in 1usize..7,
        ) {
            let mut stream = TextStream::new(&stops);
            let mut shown = String::new();
            for piece in text.as_bytes().chunks(size) {
                shown += &stream.push_bytes(piece);
                prop_assert!(naive(&text, &stops).starts_with(&shown));
            }
            shown += &stream.finish();
            prop_assert_eq!(shown, naive(&text, &stops));
        }
    }
}
