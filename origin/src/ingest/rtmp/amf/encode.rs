//! AMF0 bytes from values, for our replies.
//!
//! `rml_amf0` has a serialiser too. This one exists because that one keeps properties in a hash map (a reply would
//! differ from run to run), casts the length of a name without looking, and knows neither dates nor long strings.

use super::{Properties, Value};

pub fn encode(values: &[Value]) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    for value in values {
        encode_value(value, &mut out);
    }
    out
}

fn encode_value(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Number(number) => {
            out.push(0x00);
            out.extend(number.to_be_bytes());
        }
        Value::Boolean(boolean) => out.extend([0x01, u8::from(*boolean)]),
        Value::String(text) => match u16::try_from(text.len()) {
            Ok(length) => {
                out.push(0x02);
                out.extend(length.to_be_bytes());
                out.extend(text.bytes());
            }
            // A message holds at most 16 MiB, so no text in it reaches 4 GiB.
            Err(_) => {
                out.push(0x0c);
                out.extend((text.len() as u32).to_be_bytes());
                out.extend(text.bytes());
            }
        },
        Value::Object(properties) => {
            out.push(0x03);
            encode_properties(properties, out);
        }
        Value::Array(values) => {
            out.push(0x0a);
            out.extend((values.len() as u32).to_be_bytes());
            for value in values {
                encode_value(value, out);
            }
        }
        Value::Date(unix_ms) => {
            out.push(0x0b);
            out.extend(unix_ms.to_be_bytes());
            out.extend([0, 0]);
        }
        Value::Null => out.push(0x05),
        // AMF0 has no byte array.
        Value::Undefined | Value::Bytes(_) => out.push(0x06),
    }
}

fn encode_properties(properties: &Properties, out: &mut Vec<u8>) {
    for (name, value) in properties {
        // A name this long cannot be written, and nobody would miss it.
        let Ok(length) = u16::try_from(name.len()) else { continue };
        out.extend(length.to_be_bytes());
        out.extend(name.bytes());
        encode_value(value, out);
    }
    out.extend([0, 0, 0x09]);
}
