//! Calls of tools in what a model writes: `<tool_call>` with a JSON object or a list of them, or an answer that is such JSON.

use serde_json::{Map, Value};

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";

/// A call of a tool.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Call {
    pub(crate) name: String,
    pub(crate) arguments: Map<String, Value>,
}

/// Tells text from calls as an answer comes: what could be a call is held back.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallFilter {
    /// The names of the tools; without any, all is text.
    names: Vec<String>,
    held: String,
    /// Something that is no space was shown.
    shown: bool,
    calling: bool,
}

impl CallFilter {
    pub(crate) fn new(names: &[String]) -> CallFilter {
        CallFilter { names: names.to_vec(), ..CallFilter::default() }
    }

    /// The text that can be shown with this piece.
    pub(crate) fn push(&mut self, text: &str) -> String {
        if self.names.is_empty() {
            return text.to_owned();
        }
        self.held += text;
        let start = self.held.trim_start();
        self.calling |= !self.shown && start.starts_with(['{', '[']);
        if self.calling || (!self.shown && start.is_empty()) {
            return String::new();
        }
        let end = match self.held.find(OPEN) {
            Some(start) => {
                self.calling = true;
                start
            }
            None => {
                let ends = self.held.char_indices().map(|(at, _)| at);
                ends.into_iter().find(|&at| OPEN.starts_with(&self.held[at..])).unwrap_or(self.held.len())
            }
        };
        self.shown |= end > 0;
        let rest = self.held.split_off(end);
        std::mem::replace(&mut self.held, rest)
    }

    /// What was held back, at the end: text, and calls.
    pub(crate) fn finish(&mut self) -> (String, Vec<Call>) {
        let held = std::mem::take(&mut self.held);
        let (text, calls) = self.parse(&held);
        if calls.is_empty() { (held, calls) } else { (text.trim().to_owned(), calls) }
    }

    fn parse(&self, text: &str) -> (String, Vec<Call>) {
        let (mut outside, mut calls, mut rest) = (String::new(), Vec::new(), text);
        if !text.contains(OPEN) {
            return (String::new(), self.calls(text));
        }
        while let Some((before, after)) = rest.split_once(OPEN) {
            outside += before;
            let (call, behind) = after.split_once(CLOSE).unwrap_or((after, ""));
            calls.extend(self.calls(call));
            rest = behind;
        }
        (outside + rest, calls)
    }

    /// The calls in a piece of JSON; none where it is none, or one of its tools is not there.
    fn calls(&self, json: &str) -> Vec<Call> {
        let value = serde_json::from_str(json.trim()).unwrap_or(Value::Null);
        let items = match value {
            Value::Array(items) => items,
            other => vec![other],
        };
        let call = |item: Value| {
            let item = item.get("function").filter(|f| f.is_object()).cloned().unwrap_or(item);
            let name = item.get("name")?.as_str()?.to_owned();
            let arguments = match item.get("arguments").or_else(|| item.get("parameters")) {
                Some(Value::Object(arguments)) => arguments.clone(),
                Some(Value::String(text)) => serde_json::from_str(text).ok()?,
                None => Map::new(),
                Some(_) => return None,
            };
            self.names.contains(&name).then_some(Call { name, arguments })
        };
        items.into_iter().map(call).collect::<Option<_>>().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str, size: usize) -> (String, Vec<String>) {
        let mut filter = CallFilter::new(&["add".into(), "now".into()]);
        let letters: Vec<char> = text.chars().collect();
        let mut shown: String =
            letters.chunks(size).map(|piece| filter.push(&piece.iter().collect::<String>())).collect();
        let (rest, calls) = filter.finish();
        shown += &rest;
        let calls = calls.iter().map(|c| format!("{} {}", c.name, Value::Object(c.arguments.clone())));
        (shown, calls.collect())
    }

    #[test]
    fn calls_are_found_however_the_text_is_cut() {
        let cases: &[(&str, &str, &[&str])] = &[
            ("A < b, and that is all.", "A < b, and that is all.", &[]),
            (r#"<tool_call>{"name": "now"}</tool_call>"#, "", &["now {}"]),
            (
                "Well.\n<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1}}\n</tool_call>\n<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>",
                "Well.\n",
                &[r#"add {"a":1}"#, "now {}"],
            ),
            (r#"<tool_call>[{"name": "add", "arguments": "{\"a\": 2}"}]"#, "", &[r#"add {"a":2}"#]),
            (r#" {"name": "add", "parameters": {"b": 1}}"#, "", &[r#"add {"b":1}"#]),
            (r#"{"name": "rob", "parameters": {}}"#, r#"{"name": "rob", "parameters": {}}"#, &[]),
            (r#"[1, 2]"#, r#"[1, 2]"#, &[]),
            ("{ not json", "{ not json", &[]),
            ("<tool_call>nonsense</tool_call>", "<tool_call>nonsense</tool_call>", &[]),
        ];
        for (text, shown, calls) in cases {
            for size in [1, 3, 1000] {
                let calls: Vec<String> = calls.iter().map(|&call| call.to_owned()).collect();
                assert_eq!(split(text, size), ((*shown).to_owned(), calls), "{text}, {size}");
            }
        }
    }
}
