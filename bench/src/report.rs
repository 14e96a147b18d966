//! How a run is told: one JSON object for programs, the same as a table for people.

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;

/// Where the measured values lie. Kept in the unit that the field's name ends with.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Quantiles {
    pub(crate) n: usize,
    pub(crate) p50: f64,
    pub(crate) p95: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Quantiles {
    /// `None` where nothing was measured, so that nobody takes it for a zero.
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let max = *values.last()?;
        let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
        Some(Self { n: values.len(), p50: at(0.50), p95: at(0.95), p99: at(0.99), max })
    }
}

pub(crate) fn print(report: &impl Serialize) -> Result<()> {
    let value = serde_json::to_value(report)?;
    table("", &value);
    println!("{value}");
    Ok(())
}

fn table(name: &str, value: &Value) {
    match value {
        Value::Object(fields) if fields.contains_key("p50") => {
            let show = |key: &str| fields.get(key).and_then(Value::as_f64).unwrap_or_default();
            let (p50, p95, p99, max) = (show("p50"), show("p95"), show("p99"), show("max"));
            eprintln!("{name:40} p50 {p50:.2}  p95 {p95:.2}  p99 {p99:.2}  max {max:.2}  (n = {})", show("n"));
        }
        Value::Object(fields) => {
            for (key, value) in fields {
                table(&if name.is_empty() { key.clone() } else { format!("{name}.{key}") }, value);
            }
        }
        Value::Number(number) if number.is_f64() => eprintln!("{name:40} {:.2}", number.as_f64().unwrap_or_default()),
        Value::Null => eprintln!("{name:40} -"),
        Value::String(text) => eprintln!("{name:40} {text}"),
        other => eprintln!("{name:40} {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let q = Quantiles::of((1..=101).rev().map(f64::from).collect()).unwrap();
        assert_eq!((q.n, q.p50, q.p95, q.p99, q.max), (101, 51.0, 96.0, 100.0, 101.0));
    }

    #[test]
    fn nothing_measured_is_no_zero() {
        assert!(Quantiles::of(Vec::new()).is_none());
    }
}
