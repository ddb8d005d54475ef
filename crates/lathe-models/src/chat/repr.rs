//! What a template prints of a value, as Python writes it: lists and mappings with quotes around their strings.

use std::fmt::Write;

use minijinja::value::ValueKind;
use minijinja::{Error, Output, State, Value};

/// The formatter of an environment.
pub(super) fn format(out: &mut Output<'_>, state: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Seq | ValueKind::Map => repr(out, value, 0),
        _ => minijinja::escape_formatter(out, state, value),
    }
}

/// Deeper values are cut off.
const DEEPEST: usize = 64;

fn repr(out: &mut Output<'_>, value: &Value, depth: usize) -> Result<(), Error> {
    if depth > DEEPEST {
        return Ok(out.write_str("...")?);
    }
    match value.kind() {
        ValueKind::Seq => {
            out.write_char('[')?;
            for (i, item) in value.try_iter()?.enumerate() {
                out.write_str(if i > 0 { ", " } else { "" })?;
                repr(out, &item, depth + 1)?;
            }
            Ok(out.write_char(']')?)
        }
        ValueKind::Map => {
            out.write_char('{')?;
            for (i, key) in value.try_iter()?.enumerate() {
                out.write_str(if i > 0 { ", " } else { "" })?;
                repr(out, &key, depth + 1)?;
                out.write_str(": ")?;
                repr(out, &value.get_item(&key)?, depth + 1)?;
            }
            Ok(out.write_char('}')?)
        }
        ValueKind::String => quoted(out, value.as_str().unwrap_or_default()),
        _ => Ok(out.write_str(&value.to_string())?),
    }
}

/// A string literal: in single quotes, unless only double ones need no escape.
fn quoted(out: &mut Output<'_>, text: &str) -> Result<(), Error> {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.write_char(quote)?;
    for c in text.chars() {
        match c {
            '\\' => out.write_str("\\\\")?,
            '\n' => out.write_str("\\n")?,
            '\r' => out.write_str("\\r")?,
            '\t' => out.write_str("\\t")?,
            c if c == quote => out.write_str(&format!("\\{c}"))?,
            c if c.is_control() => out.write_str(&format!("\\x{:02x}", u32::from(c)))?,
            c => out.write_char(c)?,
        }
    }
    Ok(out.write_char(quote)?)
}
