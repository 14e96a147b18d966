//! One table laid over another: defaults, file, environment, flags.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::{Config, DEFAULTS};

const ENV_PREFIX: &str = "HEADWATER_";

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("read settings from {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    /// Without the line itself, which may hold a secret.
    #[error("{whence}, line {line}: this is not TOML: {problem}")]
    Syntax { whence: String, line: usize, problem: String },
    /// Which key, and why not, stands in the source's message.
    #[error("settings: {0}")]
    Invalid(Box<toml::de::Error>),
    #[error("environment variable {name}: there is no such setting")]
    UnknownVariable { name: String },
    #[error("{key}: {problem}")]
    Value { key: &'static str, problem: String },
}

/// Settings as they pile up; [`Layers::build`] checks the result.
pub struct Layers(Table);

impl Layers {
    pub fn defaults() -> Result<Self, ConfigError> {
        Ok(Self(parse("built-in defaults", DEFAULTS)?))
    }

    pub fn file(mut self, path: &Path) -> Result<Self, ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        merge(&mut self.0, parse(&path.display().to_string(), &text)?);
        Ok(self)
    }

    /// Takes what begins with `HEADWATER_`; a variable that names no setting is an error, because it is a typo.
    pub fn environment(mut self, variables: impl Iterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let mut known = Vec::new();
        leaves(&self.0, &mut Vec::new(), &mut known);
        for (name, text) in variables {
            let Some(key) = name.strip_prefix(ENV_PREFIX) else { continue };
            let leaf = known.iter().find(|(path, _)| path.join("_").to_uppercase() == key);
            let Some((path, is_text)) = leaf else { return Err(ConfigError::UnknownVariable { name }) };
            self.set(path, value(&text, *is_text));
        }
        Ok(self)
    }

    /// Puts one value, as a flag does.
    pub fn with(mut self, path: &[&str], value: impl Into<Value>) -> Self {
        self.set(path, value.into());
        self
    }

    pub fn build(self) -> Result<Config, ConfigError> {
        let config: Config = self.0.try_into().map_err(|source| ConfigError::Invalid(Box::new(source)))?;
        config.check()?;
        Ok(config)
    }

    fn set<S: AsRef<str>>(&mut self, path: &[S], value: Value) {
        let layer = path.iter().rev().fold(value, |inner, key| {
            let mut table = Table::new();
            table.insert(key.as_ref().to_owned(), inner);
            Value::Table(table)
        });
        if let Value::Table(layer) = layer {
            merge(&mut self.0, layer);
        }
    }
}

fn parse(whence: &str, text: &str) -> Result<Table, ConfigError> {
    text.parse().map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = 1 + before.matches('\n').count();
        ConfigError::Syntax { whence: whence.to_owned(), line, problem: error.message().to_owned() }
    })
}

/// A variable's text is TOML where it is TOML (numbers, booleans, lists), else a string. Where text belongs, as in a
/// secret, digits are text as well.
fn value(text: &str, is_text: bool) -> Value {
    let parsed = format!("v = {text}").parse::<Table>().ok().and_then(|mut table| table.remove("v"));
    let fits = parsed.filter(|value| value.is_str() || !is_text);
    fits.unwrap_or_else(|| Value::String(text.to_owned()))
}

fn merge(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(base)), Value::Table(over)) => merge(base, over),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// Every key that there is, and whether its value is text.
fn leaves(table: &Table, path: &mut Vec<String>, found: &mut Vec<(Vec<String>, bool)>) {
    for (key, value) in table {
        path.push(key.clone());
        match value {
            Value::Table(inner) => leaves(inner, path, found),
            _ => found.push((path.clone(), value.is_str())),
        }
        path.pop();
    }
}
