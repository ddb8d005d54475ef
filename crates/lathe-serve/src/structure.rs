//! What an answer must be, as the interfaces say it: `response_format`, forced calls of tools, and vLLM's names.

use std::sync::Arc;

use lathe_engine::{Constraint, Grammar};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::service::Text;

/// The fields of a request that say so; at most one may be there.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Structure {
    response_format: Option<Value>,
    structured_outputs: Option<Structured>,
    guided_json: Option<Value>,
    guided_regex: Option<String>,
    guided_choice: Option<Vec<String>>,
    guided_grammar: Option<String>,
}

/// vLLM's newer names for them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Structured {
    json: Option<Value>,
    json_object: Option<bool>,
    regex: Option<String>,
    choice: Option<Vec<String>>,
    grammar: Option<String>,
}

impl Structure {
    /// The answer is JSON of a schema.
    pub(crate) fn of_schema(schema: Value) -> Structure {
        Structure { guided_json: Some(schema), ..Structure::default() }
    }

    /// The answer has a format, as responses name it.
    pub(crate) fn of_format(format: Option<Value>) -> Structure {
        Structure { response_format: format, ..Structure::default() }
    }

    /// The grammar that is asked for.
    pub(crate) fn grammar(&self) -> Result<Option<Grammar>, ApiError> {
        let new = self.structured_outputs.clone().unwrap_or_default();
        let mut all = vec![];
        if let Some(format) = &self.response_format {
            all.extend(formatted(format)?);
        }
        all.extend(self.guided_json.iter().chain(&new.json).map(schema));
        all.extend((new.json_object == Some(true)).then(|| schema(&object())));
        all.extend(self.guided_regex.clone().or(new.regex).map(Grammar::Regex));
        all.extend(self.guided_choice.clone().or(new.choice).map(Grammar::Choice));
        all.extend(self.guided_grammar.clone().or(new.grammar).map(Grammar::Lark));
        match all.len() {
            0 | 1 => Ok(all.pop()),
            _ => Err(ApiError::field("structured_outputs", "an answer can keep to one structure only")),
        }
    }
}

/// Any object.
fn object() -> Value {
    json!({ "type": "object" })
}

/// A schema may be given as its text, too.
fn schema(schema: &Value) -> Grammar {
    Grammar::Json(schema.as_str().map_or_else(|| schema.to_string(), str::to_owned))
}

/// `response_format` of conversations, and `text.format` of responses, which has the schema one step higher.
fn formatted(format: &Value) -> Result<Option<Grammar>, ApiError> {
    let wrong = |message: &str| Err(ApiError::field("response_format", message));
    match format["type"].as_str() {
        Some("text") => Ok(None),
        Some("json_object") => Ok(Some(schema(format.get("schema").unwrap_or(&object())))),
        Some("json_schema") => match format["json_schema"].get("schema").or_else(|| format.get("schema")) {
            Some(given) => Ok(Some(schema(given))),
            None => wrong("the schema is missing: json_schema.schema"),
        },
        _ => wrong("its type is 'text', 'json_object' or 'json_schema'"),
    }
}

/// Whether and how a model must call its tools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ToolChoice {
    /// As it likes; what it calls strictly has arguments of the schema.
    Auto,
    /// One of them.
    Required,
    /// This one.
    Named(String),
}

/// The grammar of an answer that may or must call `tools`, which are functions as OpenAI's interface has them; none where the
/// model is free.
pub(crate) fn calls(tools: &[Value], choice: &ToolChoice) -> Result<Option<Grammar>, ApiError> {
    let strict = |tool: &Value| tool["function"]["strict"] == true || tool["strict"] == true;
    let named: Vec<&Value> = match choice {
        ToolChoice::Auto if !tools.iter().any(strict) => return Ok(None),
        ToolChoice::Auto | ToolChoice::Required => tools.iter().collect(),
        ToolChoice::Named(name) => tools.iter().filter(|t| t["function"]["name"] == name.as_str()).collect(),
    };
    if named.is_empty() {
        return Err(ApiError::field("tool_choice", "there is no such tool"));
    }
    let (mut rules, mut names) = (String::new(), vec![]);
    for (number, tool) in named.into_iter().enumerate() {
        let function = &tool["function"];
        // A call that is not forced has a schema only where it is strict.
        let free = *choice == ToolChoice::Auto && !strict(tool);
        let parameters = function.get("parameters").filter(|p| p.is_object() && !free).cloned();
        let mut parameters = parameters.unwrap_or_else(object);
        parameters["x-guidance"] = lathe_engine::json_spaces();
        let head = format!("{{\"name\": {}, \"arguments\": ", function["name"]);
        rules += &format!("call_{number}: {} arguments_{number} \"}}\"\n", Value::from(head));
        rules += &format!("arguments_{number}: %json {parameters}\n");
        names.push(format!("call_{number}"));
    }
    let call = format!("call: {}\n{rules}", names.join(" | "));
    let start = match choice {
        // A text, or calls between tags with text around, as models are taught.
        ToolChoice::Auto => {
            "start: call | FIRST? (\"<tool_call>\" /[ \\n]*/ call /[ \\n]*/ \"</tool_call>\" REST?)*\n\
             FIRST: /[^{\\[](.|\\n)*/ & ~/(.|\\n)*<tool_call>(.|\\n)*/\n\
             REST: /(.|\\n)+/ & ~/(.|\\n)*<tool_call>(.|\\n)*/\n"
        }
        _ => "start: call\n",
    };
    Ok(Some(Grammar::Lark(format!("{start}{call}"))))
}

/// Reads a grammar with the tokens of a model, beside the thread that serves.
pub(crate) async fn constraint(
    text: &Arc<Text>,
    grammar: Option<Grammar>,
) -> Result<Option<Constraint>, ApiError> {
    let Some(grammar) = grammar else { return Ok(None) };
    let text = text.clone();
    let read = tokio::task::spawn_blocking(move || text.grammars()?.compile(&grammar));
    let gone = |_| ApiError::new(axum::http::StatusCode::INTERNAL_SERVER_ERROR, "the grammar was not read");
    Ok(Some(read.await.map_err(gone)??))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grammar(fields: Value) -> Result<Option<Grammar>, String> {
        let structure: Structure = serde_json::from_value(fields).map_err(|error| error.to_string())?;
        structure.grammar().map_err(|error| error.message)
    }

    #[test]
    fn each_name_means_its_grammar() {
        let schema = json!({ "type": "integer" });
        let json = Ok(Some(Grammar::Json(schema.to_string())));
        let format = json!({ "type": "json_schema", "json_schema": { "name": "x", "schema": schema } });
        assert_eq!(grammar(json!({ "response_format": format })), json);
        assert_eq!(grammar(json!({ "guided_json": schema.to_string() })), json);
        assert_eq!(grammar(json!({ "structured_outputs": { "json": schema } })), json);
        let any = Ok(Some(Grammar::Json(object().to_string())));
        assert_eq!(grammar(json!({ "response_format": { "type": "json_object" } })), any);
        let choice = Ok(Some(Grammar::Choice(vec!["a".into(), "b".into()])));
        assert_eq!(grammar(json!({ "guided_choice": ["a", "b"] })), choice);
        assert_eq!(grammar(json!({ "response_format": { "type": "text" } })), Ok(None));
        for wrong in [
            json!({ "response_format": { "type": "xml" } }),
            json!({ "response_format": { "type": "json_schema" } }),
            json!({ "guided_regex": "a", "guided_grammar": "b" }),
            json!({ "structured_outputs": { "nonsense": 1 } }),
        ] {
            assert!(grammar(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
