//! AMF0 values from bytes ("Action Message Format -- AMF 0", Adobe 2007).
//!
//! A reference is answered by reading the value it points to once more. That keeps no copies for the case that almost
//! never happens, and the limits on depth and number hold for references without another line: an object that
//! contains itself is simply too deep.

use super::{Error, Properties, Value, amf3, cursor::Cursor};

mod marker {
    pub(super) const NUMBER: u8 = 0x00;
    pub(super) const BOOLEAN: u8 = 0x01;
    pub(super) const STRING: u8 = 0x02;
    pub(super) const OBJECT: u8 = 0x03;
    pub(super) const NULL: u8 = 0x05;
    pub(super) const UNDEFINED: u8 = 0x06;
    pub(super) const REFERENCE: u8 = 0x07;
    pub(super) const ECMA_ARRAY: u8 = 0x08;
    pub(super) const OBJECT_END: u8 = 0x09;
    pub(super) const STRICT_ARRAY: u8 = 0x0a;
    pub(super) const DATE: u8 = 0x0b;
    pub(super) const LONG_STRING: u8 = 0x0c;
    pub(super) const UNSUPPORTED: u8 = 0x0d;
    pub(super) const XML_DOCUMENT: u8 = 0x0f;
    pub(super) const TYPED_OBJECT: u8 = 0x10;
    pub(super) const AVMPLUS: u8 = 0x11;
}

/// All values of a message.
pub fn decode(input: &[u8]) -> Result<Vec<Value>, Error> {
    let mut decoder = Decoder { cursor: Cursor::new(input), complex: Vec::new() };
    let mut values = Vec::new();
    while !decoder.cursor.is_at_end() {
        values.push(decoder.value(1)?);
    }
    Ok(values)
}

struct Decoder<'a> {
    cursor: Cursor<'a>,
    /// Where each object and array began (its marker), in the order references count them.
    complex: Vec<usize>,
}

impl Decoder<'_> {
    fn value(&mut self, depth: usize) -> Result<Value, Error> {
        self.cursor.enter(depth)?;
        let at = self.cursor.at();
        let marker = self.cursor.u8("a value")?;
        if matches!(marker, marker::OBJECT | marker::ECMA_ARRAY | marker::STRICT_ARRAY | marker::TYPED_OBJECT) {
            self.complex.push(at);
        }
        Ok(match marker {
            marker::NUMBER => Value::Number(self.cursor.f64("a number")?),
            marker::BOOLEAN => Value::Boolean(self.cursor.u8("a boolean")? != 0),
            marker::STRING => {
                let length = self.cursor.u16("a string")?;
                Value::String(self.cursor.text(length.into(), "a string")?)
            }
            marker::LONG_STRING | marker::XML_DOCUMENT => {
                let length = self.cursor.u32("a long string")?;
                Value::String(self.cursor.text(length as usize, "a long string")?)
            }
            marker::OBJECT => Value::Object(self.properties(depth)?),
            marker::ECMA_ARRAY => {
                // The count is a hint that many encoders leave at zero.
                self.cursor.u32("an associative array")?;
                Value::Object(self.properties(depth)?)
            }
            marker::TYPED_OBJECT => {
                let length = self.cursor.u16("a class name")?;
                self.cursor.take(length.into(), "a class name")?;
                Value::Object(self.properties(depth)?)
            }
            marker::STRICT_ARRAY => {
                let count = self.cursor.u32("an array")?;
                let mut values = Vec::new();
                for _ in 0..count {
                    values.push(self.value(depth + 1)?);
                }
                Value::Array(values)
            }
            marker::DATE => {
                let unix_ms = self.cursor.f64("a date")?;
                // The time zone is reserved and always zero (§2.13).
                self.cursor.u16("a date")?;
                Value::Date(unix_ms)
            }
            marker::REFERENCE => self.reference(depth)?,
            marker::NULL => Value::Null,
            marker::UNDEFINED | marker::UNSUPPORTED => Value::Undefined,
            marker::AVMPLUS => amf3::decode_embedded(&mut self.cursor, depth)?,
            marker => return Err(Error::Marker { at, version: 0, marker }),
        })
    }

    fn properties(&mut self, depth: usize) -> Result<Properties, Error> {
        let mut properties = Properties::new();
        // Some devices leave out the end marker of the last object in a message.
        while !self.cursor.is_at_end() {
            let length = self.cursor.u16("a property name")?;
            if length == 0 && self.cursor.peek() == Some(marker::OBJECT_END) {
                self.cursor.u8("an object's end")?;
                break;
            }
            let name = self.cursor.text(length.into(), "a property name")?;
            properties.push((name, self.value(depth + 1)?));
        }
        Ok(properties)
    }

    fn reference(&mut self, depth: usize) -> Result<Value, Error> {
        let at = self.cursor.at();
        let index = usize::from(self.cursor.u16("a reference")?);
        let target = *self.complex.get(index).ok_or(Error::Reference { at, what: "object", index })?;
        let (resume, known) = (self.cursor.at(), self.complex.len());
        self.cursor.jump(target);
        let value = self.value(depth + 1)?;
        self.cursor.jump(resume);
        self.complex.truncate(known);
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::rtmp::amf::{DEPTH_MAX, ELEMENTS_MAX, encode};

    #[test]
    fn reads_what_another_implementation_wrote() {
        use rml_amf0::Amf0Value;
        let values = vec![
            Amf0Value::Utf8String("connect".into()),
            Amf0Value::Number(1.0),
            Amf0Value::Object([("app".to_owned(), Amf0Value::Utf8String("live".into()))].into()),
            Amf0Value::StrictArray(vec![Amf0Value::Boolean(true), Amf0Value::Null, Amf0Value::Undefined]),
        ];
        assert_eq!(
            decode(&rml_amf0::serialize(&values).unwrap()).unwrap(),
            [
                Value::from("connect"),
                Value::from(1.0),
                Value::object([("app", "live".into())]),
                Value::Array(vec![Value::Boolean(true), Value::Null, Value::Undefined]),
            ]
        );
    }

    #[test]
    fn reads_every_marker() {
        let mut bytes = vec![0x0b];
        bytes.extend(1.5f64.to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend([0x0c, 0, 0, 0, 2, b'h', b'i']);
        bytes.extend([0x0f, 0, 0, 0, 4, b'<', b'a', b'/', b'>']);
        bytes.extend([0x10, 0, 1, b'C', 0, 1, b'k', 0x05, 0, 0, 9]);
        bytes.extend([0x08, 0, 0, 0, 0, 0, 1, b'k', 0x01, 1, 0, 0, 9]);
        bytes.extend([0x0d]);
        bytes.extend([0x11, 0x04, 0x05]);
        bytes.extend([0x11, 0x06, 0x05, b'h', b'i']);
        bytes.extend([0x07, 0, 1]);
        assert_eq!(
            decode(&bytes).unwrap(),
            [
                Value::Date(1.5),
                "hi".into(),
                "<a/>".into(),
                Value::object([("k", Value::Null)]),
                Value::object([("k", Value::Boolean(true))]),
                Value::Undefined,
                5.0.into(),
                "hi".into(),
                Value::object([("k", Value::Boolean(true))]),
            ]
        );
    }

    #[test]
    fn nesting_a_thousand_deep_is_an_error_not_a_stack_overflow() {
        let arrays: Vec<u8> = [0x0a, 0, 0, 0, 1].repeat(1000);
        assert!(matches!(decode(&arrays), Err(Error::TooDeep { .. })));
        let objects: Vec<u8> = [0x03, 0, 1, b'k'].repeat(1000);
        assert!(matches!(decode(&objects), Err(Error::TooDeep { .. })));
        let allowed: Vec<u8> = [[0x0a, 0, 0, 0, 1].repeat(DEPTH_MAX - 1), vec![0x05]].concat();
        assert!(decode(&allowed).is_ok());
    }

    #[test]
    fn an_object_that_contains_itself_is_refused() {
        let cycle = [0x03, 0, 1, b'k', 0x07, 0, 0, 0, 0, 9];
        assert!(matches!(decode(&cycle), Err(Error::TooDeep { .. })));
    }

    #[test]
    fn references_cannot_multiply_without_bound() {
        // Each array holds the previous one eight times: eight to the power of twelve values from 400 bytes.
        let mut bytes = vec![0x0a, 0, 0, 0, 1, 0x05];
        for previous in 0..12u16 {
            bytes.extend([0x0a, 0, 0, 0, 8]);
            for _ in 0..8 {
                bytes.push(0x07);
                bytes.extend(previous.to_be_bytes());
            }
        }
        assert!(matches!(decode(&bytes), Err(Error::TooMany { .. })));
        // One long string, a thousand times.
        let mut bytes = vec![0x0a, 0, 0, 0, 1, 0x02, 0xff, 0xff];
        bytes.extend([b'x'; 0xffff]);
        bytes.extend([0x07, 0, 0].repeat(1000));
        assert!(matches!(decode(&bytes), Err(Error::TooRepetitive { .. })));
        assert!(matches!(decode(&[0x07, 0, 3]), Err(Error::Reference { index: 3, .. })));
    }

    #[test]
    fn a_huge_claimed_count_costs_nothing() {
        assert!(matches!(decode(&[0x0a, 0xff, 0xff, 0xff, 0xff]), Err(Error::Truncated { at: 5, .. })));
        assert!(matches!(decode(&[0x0c, 0xff, 0xff, 0xff, 0xff, b'x']), Err(Error::Truncated { at: 6, .. })));
        let nulls = vec![0x05; ELEMENTS_MAX + 1];
        assert_eq!(decode(&nulls), Err(Error::TooMany { at: ELEMENTS_MAX }));
    }

    #[test]
    fn a_missing_end_marker_and_a_foreign_code_page_are_tolerated() {
        assert_eq!(decode(&[0x03, 0, 1, b'k', 0x05]).unwrap(), [Value::object([("k", Value::Null)])]);
        assert_eq!(decode(&[0x02, 0, 2, 0xc4, b'x']).unwrap(), ["\u{fffd}x".into()]);
        assert_eq!(decode(&[0x0e]), Err(Error::Marker { at: 0, version: 0, marker: 0x0e }));
    }

    #[test]
    fn what_we_write_another_implementation_reads() {
        use rml_amf0::Amf0Value;
        let values = [
            "_result".into(),
            1.0.into(),
            Value::object([("code", "ok".into()), ("list", Value::Array(vec!["av01".into()]))]),
            Value::Null,
        ];
        let bytes = encode(&values);
        assert_eq!(decode(&bytes).unwrap(), values);
        assert_eq!(
            rml_amf0::deserialize(&mut std::io::Cursor::new(bytes)).unwrap(),
            [
                Amf0Value::Utf8String("_result".into()),
                Amf0Value::Number(1.0),
                Amf0Value::Object(
                    [
                        ("code".to_owned(), Amf0Value::Utf8String("ok".into())),
                        ("list".to_owned(), Amf0Value::StrictArray(vec![Amf0Value::Utf8String("av01".into())])),
                    ]
                    .into()
                ),
                Amf0Value::Null,
            ]
        );
    }
}
