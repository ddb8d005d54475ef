//! Settings: the JSON objects of `config.json` and its neighbours, read with their types checked.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::error::{SafetensorsError, SafetensorsErrorKind as Kind};

/// Reads a JSON file of at most `most` bytes; `None` where there is no such file.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path, most: u64) -> Result<Option<T>, SafetensorsError> {
    let Some(bytes) = read(path, most)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|e| Kind::Json(e.to_string()).at(path))
}

/// Reads a file of at most `most` bytes; `None` where there is no such file.
pub(super) fn read(path: &Path, most: u64) -> Result<Option<Vec<u8>>, SafetensorsError> {
    let io = |action| move |error| Kind::Io { action, error }.at(path);
    let file = match File::open(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(io("open"))?,
    };
    let mut bytes = vec![];
    file.take(most + 1).read_to_end(&mut bytes).map_err(io("read"))?;
    if bytes.len() as u64 > most {
        return Err(Kind::Json(format!("it has more than {most} bytes")).at(path));
    }
    Ok(Some(bytes))
}

/// An object of settings; a setting that is `null` is as one that is not there.
#[derive(Clone, Debug)]
pub(super) struct Config {
    path: PathBuf,
    /// What the settings' names begin with in a message.
    prefix: String,
    values: Map<String, Value>,
}

impl Config {
    pub(super) fn new(path: &Path, values: Map<String, Value>) -> Config {
        Config { path: path.to_owned(), prefix: String::new(), values }
    }

    /// The settings of a model of several kinds of input are those of its text model.
    pub(super) fn of_text(mut self) -> Result<Config, SafetensorsError> {
        if let Some(text) = self.object("text_config")? {
            self.values.extend(text.values);
        }
        Ok(self)
    }

    fn wrong(&self, key: &str, found: &Value, wanted: &str) -> SafetensorsError {
        let mut found = found.to_string();
        if found.len() > 60 {
            let end = (0..=60).rev().find(|&i| found.is_char_boundary(i)).unwrap_or(0);
            found.replace_range(end.., "...");
        }
        self.error(key, &found, wanted)
    }

    /// An error about a setting.
    pub(super) fn error(&self, key: &str, found: &str, wanted: &str) -> SafetensorsError {
        let key = format!("{}{key}", self.prefix);
        Kind::Setting { key, found: found.to_owned(), wanted: wanted.to_owned() }.at(&self.path)
    }

    /// The raw value of a setting.
    pub(super) fn value(&self, key: &str) -> Option<&Value> {
        self.values.get(key).filter(|v| !v.is_null())
    }

    fn read<'a, T>(
        &'a self,
        key: &str,
        wanted: &str,
        convert: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, SafetensorsError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        convert(value).map(Some).ok_or_else(|| self.wrong(key, value, wanted))
    }

    pub(super) fn u32(&self, key: &str) -> Result<Option<u32>, SafetensorsError> {
        self.read(key, "an integer from 0 to 4294967295", |v| v.as_u64()?.try_into().ok())
    }

    /// The first of these settings that is there.
    pub(super) fn u32_of(&self, keys: &[&str]) -> Result<Option<u32>, SafetensorsError> {
        for key in keys {
            if let Some(n) = self.u32(key)? {
                return Ok(Some(n));
            }
        }
        Ok(None)
    }

    pub(super) fn f32(&self, key: &str) -> Result<Option<f32>, SafetensorsError> {
        self.read(key, "a number", |v| v.as_f64().map(|f| f as f32).filter(|f| f.is_finite()))
    }

    pub(super) fn f32s(&self, key: &str) -> Result<Option<Vec<f32>>, SafetensorsError> {
        let one = |v: &Value| v.as_f64().map(|f| f as f32).filter(|f| f.is_finite());
        self.read(key, "an array of numbers", |v| v.as_array()?.iter().map(one).collect())
    }

    pub(super) fn bool(&self, key: &str) -> Result<Option<bool>, SafetensorsError> {
        self.read(key, "true or false", Value::as_bool)
    }

    pub(super) fn str(&self, key: &str) -> Result<Option<&str>, SafetensorsError> {
        self.read(key, "a string", Value::as_str)
    }

    pub(super) fn object(&self, key: &str) -> Result<Option<Config>, SafetensorsError> {
        let values = self.read(key, "an object", Value::as_object)?;
        let prefix = format!("{}{key}.", self.prefix);
        Ok(values.map(|v| Config { path: self.path.clone(), prefix, values: v.clone() }))
    }
}
