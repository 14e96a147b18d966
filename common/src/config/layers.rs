//! One table laid over another: defaults, file, environment, flags.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::{Config, DEFAULTS};

const ENV_PREFIX: &str = "HEADWATER_";

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("read settings from {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{whence}: {source}")]
    Syntax { whence: String, source: Box<toml::de::Error> },
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
            let path = known.iter().find(|path| path.join("_").to_uppercase() == key);
            let Some(path) = path else { return Err(ConfigError::UnknownVariable { name }) };
            self.set(path, value(&text));
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

impl Config {
    /// What the types can't say.
    fn check(&self) -> Result<(), ConfigError> {
        if self.tls.certificate.as_os_str().is_empty() != self.tls.key.as_os_str().is_empty() {
            let problem = "certificate and key go together, only one of them is set".to_owned();
            return Err(ConfigError::Value { key: "tls", problem });
        }
        for app in self.apps.keys() {
            if let Err(problem) = crate::live::BroadcastId::new(app, "x") {
                return Err(ConfigError::Value { key: "apps", problem: problem.to_string() });
            }
        }
        for server in &self.rtc.ice_servers {
            let key = "rtc.ice_servers";
            if !is_ice_url(&server.url) {
                let problem = format!("{:?} begins with none of stun:, stuns:, turn:, turns:", server.url);
                return Err(ConfigError::Value { key, problem });
            }
            // They are told to players in a header, in quotes.
            let quotable = |text: &str| text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\' | b'>'));
            if ![&server.url, &server.username, &server.credential].into_iter().all(|text| quotable(text)) {
                let problem = format!("{:?}: only printable ASCII without quotes and backslashes", server.url);
                return Err(ConfigError::Value { key, problem });
            }
        }
        Ok(())
    }
}

fn is_ice_url(url: &str) -> bool {
    ["stun:", "stuns:", "turn:", "turns:"].iter().any(|scheme| url.starts_with(scheme))
}

fn parse(whence: &str, text: &str) -> Result<Table, ConfigError> {
    text.parse().map_err(|source| ConfigError::Syntax { whence: whence.to_owned(), source: Box::new(source) })
}

/// A variable's text is TOML where it is TOML (numbers, booleans, lists), else a string.
fn value(text: &str) -> Value {
    let parsed = format!("v = {text}").parse::<Table>().ok().and_then(|mut table| table.remove("v"));
    parsed.unwrap_or_else(|| Value::String(text.to_owned()))
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

fn leaves(table: &Table, path: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    for (key, value) in table {
        path.push(key.clone());
        match value {
            Value::Table(inner) => leaves(inner, path, found),
            _ => found.push(path.clone()),
        }
        path.pop();
    }
}
