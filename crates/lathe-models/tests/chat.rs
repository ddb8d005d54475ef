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
    #[serde(default)]
    tools: Vec<serde_json::Value>,
    add: bool,
    expected: Outcome,
}

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Outcome {
    Text(String),
    Refused { refused: String },
}

/// Renders all cases; returns how many templates and cases there are.
fn check(expectations: &str) -> (usize, usize) {
    let Expectations { templates, cases } =
        serde_json::from_str(expectations).expect("the expectations are JSON");
    let count = (templates.len(), cases.len());
    let mut faults = vec![];
    for case in cases {
        let mut w = GgufWriter::new();
        w.str("tokenizer.chat_template", &templates[&case.template]);
        let file = ModelFile::from_bytes(w.to_bytes().expect("writable")).expect("readable");
        let template = ChatTemplate::from_file(&file).expect("the template is read");
        match (
            template.render_with_tools(&case.messages, &case.tools, case.add, "<s>", "</s>"),
            case.expected,
        ) {
            (Ok(text), Outcome::Text(expected)) if text == expected => {}
            (Err(ChatError::Refused(why)), Outcome::Refused { refused }) if why == refused => {}
            (Ok(text), Outcome::Text(expected)) => {
                faults.push(format!("{}:\n{text}\nand not\n{expected}", case.template));
            }
            (other, _) => faults.push(format!("{}: {other:?}", case.template)),
        }
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    count
}

#[test]
fn renders_as_transformers_does() {
    assert_eq!(check(include_str!("data/chat/expected.json")), (3, 36));
}

#[test]
fn families_with_tools_render_as_transformers_does() {
    assert_eq!(check(include_str!("data/chat/families.json")), (9, 144));
}

#[test]
fn a_template_for_tools_is_taken_with_tools() {
    let mut w = GgufWriter::new();
    w.str("tokenizer.chat_template", "plain")
        .str("tokenizer.chat_template.tool_use", "tools: {{ tools | length }}");
    let file = ModelFile::from_bytes(w.to_bytes().expect("writable")).expect("readable");
    let template = ChatTemplate::from_file(&file).expect("it is read");
    let render = |tools: &[serde_json::Value]| {
        template.render_with_tools(&[], tools, true, "", "").expect("it renders")
    };
    assert_eq!((render(&[]).as_str(), render(&[serde_json::json!({})]).as_str()), ("plain", "tools: 1"));
}

#[test]
fn hostile_templates_end_soon_with_one_line() {
    let nested = format!("{}1{}", "(".repeat(100_000), ")".repeat(100_000));
    for source in [
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{% for a in range(1000000000) %}x{% endfor %}",
        "{{ 'a' * 1000000000 }}",
        "{{ ['a' * 1000000] * 1000000000 }}",
        "{% for a in range(100000) %}{{ 'a' * 100000 }}{% endfor %}",
        "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
        "{% macro f(x) %}{{ f(x ~ x) }}{% endmacro %}{{ f('aaaaaaaa') }}",
        "{{ 'a' | indent(1000000000) | length }}{{ '%1000000000d' % 1 }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ 'a'.center(1000000000) }}{{ 'a'.ljust(1000000000) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.__class__.__init__.__globals__ }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}{{ os.system('true') }}",
        &format!("{{{{ {nested} }}}}"),
        &"{% if true %}".repeat(100_000),
        &format!("{{{{ {}1 }}}}", "not ".repeat(100_000)),
        &format!("{{{{ {}1 }}}}", "-".repeat(100_000)),
        &format!("{{{{ 1{} }}}}", " + 1".repeat(200_000)),
        &format!("{{{{ {}{} }}}}", "[".repeat(100_000), "]".repeat(100_000)),
        &format!("{{{{ a{} }}}}", "|upper".repeat(100_000)),
    ] {
        let start = std::time::Instant::now();
        let found =
            ChatTemplate::new(source).and_then(|t| t.render(&[Message::new("user", "x")], true, "", ""));
        let time = start.elapsed();
        let name: String = source.chars().take(60).collect();
        if let Err(e) = &found {
            let line = e.diagnostic().to_string();
            assert!(line.starts_with("error[chat-") && !line.contains('\n'), "{name}: {line}");
        }
        let written = found.as_ref().map_or(0, String::len);
        assert!(written < 1 << 26, "{name}: {written} bytes");
        // Milliseconds on an idle machine; what does not end takes for ever.
        assert!(time.as_secs() < 60, "{name}: {time:?}");
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
