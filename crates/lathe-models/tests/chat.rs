//! Chat templates against `transformers` (tests/scripts/make_chat.py).

use std::collections::BTreeMap;

use lathe_diagnostic::Diagnose;
use lathe_models::{ChatError, ChatTemplate, GgufWriter, Message, ModelFile};

#[derive(serde::Deserialize)]
struct Expectations {
    templates: BTreeMap<String, String>,
    cases: Vec<Case>,
}

#[derive(serde::Deserialize)]
struct Case {
    template: String,
    messages: Vec<Message>,
    add: bool,
    expected: Outcome,
}

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Outcome {
    Text(String),
    Refused { refused: String },
}

#[test]
fn renders_as_transformers_does() {
    let Expectations { templates, cases } =
        serde_json::from_str(include_str!("data/chat/expected.json")).expect("the expectations are JSON");
    assert_eq!((templates.len(), cases.len()), (3, 36));
    for case in cases {
        let mut w = GgufWriter::new();
        w.str("tokenizer.chat_template", &templates[&case.template]);
        let file = ModelFile::from_bytes(w.to_bytes().expect("writable")).expect("readable");
        let template = ChatTemplate::from_file(&file).expect("the template is read");
        let what = (&case.template, &case.messages);
        match (template.render(&case.messages, case.add, "<s>", "</s>"), case.expected) {
            (Ok(text), Outcome::Text(expected)) => assert_eq!(text, expected, "{what:?}"),
            (Err(ChatError::Refused(why)), Outcome::Refused { refused }) => {
                assert_eq!(why, refused, "{what:?}")
            }
            (other, _) => panic!("{what:?}: {other:?}"),
        }
    }
}

#[test]
fn each_fault_has_its_own_line() {
    let file = ModelFile::from_bytes(GgufWriter::new().to_bytes().expect("writable")).expect("readable");
    let missing = ChatTemplate::from_file(&file).expect_err("there is none").diagnostic().to_string();
    assert!(missing.starts_with("error[chat-no-template]: the model has no chat template"), "{missing}");

    let syntax = ChatTemplate::new("{% for %}").expect_err("no Jinja").diagnostic().to_string();
    assert!(syntax.starts_with("error[chat-template]: the model's chat template cannot be read"), "{syntax}");

    let render = |source: &str| {
        let template = ChatTemplate::new(source).expect("it is read");
        template.render(&[], true, "", "").expect_err("it fails").diagnostic().to_string()
    };
    assert!(
        render("{{ raise_exception('no') }}")
            .starts_with("error[chat-refused]: the model's chat template refuses")
    );
    assert!(render("{{ 1 + 'a' }}").starts_with("error[chat-failed]"));
    let endless = "{% for a in range(10000) %}{% for b in range(10000) %}{% endfor %}{% endfor %}";
    let endless = render(endless);
    assert!(endless.starts_with("error[chat-failed]") && !endless.contains('\n'), "{endless}");
}
