//! AMF3 values from bytes ("Action Message Format -- AMF 3", Adobe 2013).
//!
//! References to objects are answered by reading the value again, as in AMF0. Strings and traits, which AMF3 refers to
//! all the time, are kept in tables; a string is shared, never copied.

use std::sync::Arc;

use bytes::Bytes;

use super::{Error, Properties, Value, cursor::Cursor};

mod marker {
    pub(super) const UNDEFINED: u8 = 0x00;
    pub(super) const NULL: u8 = 0x01;
    pub(super) const FALSE: u8 = 0x02;
    pub(super) const TRUE: u8 = 0x03;
    pub(super) const INTEGER: u8 = 0x04;
    pub(super) const DOUBLE: u8 = 0x05;
    pub(super) const STRING: u8 = 0x06;
    pub(super) const XML_DOCUMENT: u8 = 0x07;
    pub(super) const DATE: u8 = 0x08;
    pub(super) const ARRAY: u8 = 0x09;
    pub(super) const OBJECT: u8 = 0x0a;
    pub(super) const XML: u8 = 0x0b;
    pub(super) const BYTE_ARRAY: u8 = 0x0c;
    pub(super) const VECTOR_INT: u8 = 0x0d;
    pub(super) const VECTOR_UINT: u8 = 0x0e;
    pub(super) const VECTOR_DOUBLE: u8 = 0x0f;
    pub(super) const VECTOR_OBJECT: u8 = 0x10;
    pub(super) const DICTIONARY: u8 = 0x11;
}

/// All values of a message.
pub fn decode(input: &[u8]) -> Result<Vec<Value>, Error> {
    let mut cursor = Cursor::new(input);
    let mut decoder = Decoder::new(&mut cursor);
    let mut values = Vec::new();
    while !decoder.cursor.is_at_end() {
        values.push(decoder.value(1)?);
    }
    Ok(values)
}

/// One AMF3 value inside AMF0, where the reference tables begin anew.
pub(super) fn decode_embedded(cursor: &mut Cursor<'_>, depth: usize) -> Result<Value, Error> {
    Decoder::new(cursor).value(depth + 1)
}

struct Decoder<'c, 'a> {
    cursor: &'c mut Cursor<'a>,
    strings: Vec<Arc<str>>,
    /// Where each referable value began (its marker).
    complex: Vec<usize>,
    traits: Vec<Arc<Traits>>,
}

struct Traits {
    class: Arc<str>,
    externalizable: bool,
    dynamic: bool,
    names: Vec<Arc<str>>,
}

/// The number in front of most values: its lowest bit tells what the rest means.
enum Head {
    Reference(usize),
    Inline(usize),
}

impl<'c, 'a> Decoder<'c, 'a> {
    fn new(cursor: &'c mut Cursor<'a>) -> Self {
        Self { cursor, strings: Vec::new(), complex: Vec::new(), traits: Vec::new() }
    }

    fn value(&mut self, depth: usize) -> Result<Value, Error> {
        self.cursor.enter(depth)?;
        let at = self.cursor.at();
        let marker = self.cursor.u8("a value")?;
        Ok(match marker {
            marker::UNDEFINED => Value::Undefined,
            marker::NULL => Value::Null,
            marker::FALSE => Value::Boolean(false),
            marker::TRUE => Value::Boolean(true),
            marker::INTEGER => {
                // 29 bits, signed.
                let integer = (self.u29("an integer")? << 3).cast_signed() >> 3;
                Value::Number(integer.into())
            }
            marker::DOUBLE => Value::Number(self.cursor.f64("a double")?),
            marker::STRING => Value::String(self.string("a string")?),
            marker::XML_DOCUMENT
            | marker::XML
            | marker::DATE
            | marker::ARRAY
            | marker::OBJECT
            | marker::BYTE_ARRAY
            | marker::VECTOR_INT
            | marker::VECTOR_UINT
            | marker::VECTOR_DOUBLE
            | marker::VECTOR_OBJECT
            | marker::DICTIONARY => match self.head("a value's head")? {
                Head::Reference(index) => self.reference(index, at, depth)?,
                Head::Inline(head) => {
                    self.complex.push(at);
                    self.complex_value(marker, head, depth)?
                }
            },
            marker => return Err(Error::Marker { at, version: 3, marker }),
        })
    }

    fn complex_value(&mut self, marker: u8, head: usize, depth: usize) -> Result<Value, Error> {
        Ok(match marker {
            marker::DATE => Value::Date(self.cursor.f64("a date")?),
            marker::ARRAY => self.array(head, depth)?,
            marker::OBJECT => self.object(head, depth)?,
            marker::BYTE_ARRAY => Value::Bytes(Bytes::copy_from_slice(self.cursor.take_kept(head, "a byte array")?)),
            marker::VECTOR_INT => self.vector(head, |cursor| Ok(cursor.u32("an integer")?.cast_signed().into()))?,
            marker::VECTOR_UINT => self.vector(head, |cursor| Ok(cursor.u32("an integer")?.into()))?,
            marker::VECTOR_DOUBLE => self.vector(head, |cursor| cursor.f64("a double"))?,
            marker::VECTOR_OBJECT => {
                self.cursor.u8("a vector")?;
                self.string("a class name")?;
                self.values(head, depth)?
            }
            marker::DICTIONARY => {
                self.cursor.u8("a dictionary")?;
                let mut pairs = Vec::new();
                for _ in 0..head {
                    pairs.push(Value::Array(vec![self.value(depth + 1)?, self.value(depth + 1)?]));
                }
                Value::Array(pairs)
            }
            _ => Value::String(self.cursor.text(head, "an XML document")?),
        })
    }

    /// Named entries up to an empty name, then as many unnamed ones as announced.
    fn array(&mut self, count: usize, depth: usize) -> Result<Value, Error> {
        let mut properties = self.named(depth)?;
        let dense = self.values(count, depth)?;
        if properties.is_empty() {
            return Ok(dense);
        }
        if let Value::Array(values) = dense {
            properties.extend(values.into_iter().enumerate().map(|(i, value)| (i.to_string().into(), value)));
        }
        Ok(Value::Object(properties))
    }

    fn object(&mut self, head: usize, depth: usize) -> Result<Value, Error> {
        let at = self.cursor.at();
        let traits = self.object_traits(head, at)?;
        if traits.externalizable {
            return Err(Error::Externalizable { at, class: traits.class.to_string() });
        }
        let mut properties = Properties::new();
        for name in &traits.names {
            properties.push((name.clone(), self.value(depth + 1)?));
        }
        if traits.dynamic {
            properties.extend(self.named(depth)?);
        }
        Ok(Value::Object(properties))
    }

    fn object_traits(&mut self, head: usize, at: usize) -> Result<Arc<Traits>, Error> {
        if head & 1 == 0 {
            let index = head >> 1;
            return self.traits.get(index).cloned().ok_or(Error::Reference { at, what: "traits", index });
        }
        let class = self.string("a class name")?;
        let mut names = Vec::new();
        for _ in 0..head >> 3 {
            self.cursor.count()?;
            names.push(self.string("a property name")?);
        }
        let traits = Arc::new(Traits { class, externalizable: head & 2 != 0, dynamic: head & 4 != 0, names });
        self.traits.push(traits.clone());
        Ok(traits)
    }

    fn named(&mut self, depth: usize) -> Result<Properties, Error> {
        let mut properties = Properties::new();
        loop {
            let name = self.string("a property name")?;
            if name.is_empty() {
                return Ok(properties);
            }
            properties.push((name, self.value(depth + 1)?));
        }
    }

    fn values(&mut self, count: usize, depth: usize) -> Result<Value, Error> {
        let mut values = Vec::new();
        for _ in 0..count {
            values.push(self.value(depth + 1)?);
        }
        Ok(Value::Array(values))
    }

    fn vector(&mut self, count: usize, read: fn(&mut Cursor<'a>) -> Result<f64, Error>) -> Result<Value, Error> {
        self.cursor.u8("a vector")?;
        let mut values = Vec::new();
        for _ in 0..count {
            self.cursor.count()?;
            values.push(Value::Number(read(self.cursor)?));
        }
        Ok(Value::Array(values))
    }

    fn reference(&mut self, index: usize, at: usize, depth: usize) -> Result<Value, Error> {
        let target = *self.complex.get(index).ok_or(Error::Reference { at, what: "object", index })?;
        let resume = self.cursor.at();
        let known = (self.strings.len(), self.complex.len(), self.traits.len());
        self.cursor.jump(target);
        let value = self.value(depth + 1)?;
        self.cursor.jump(resume);
        self.strings.truncate(known.0);
        self.complex.truncate(known.1);
        self.traits.truncate(known.2);
        Ok(value)
    }

    fn string(&mut self, what: &'static str) -> Result<Arc<str>, Error> {
        let at = self.cursor.at();
        match self.head(what)? {
            Head::Reference(index) => {
                self.strings.get(index).cloned().ok_or(Error::Reference { at, what: "string", index })
            }
            Head::Inline(length) => {
                let text = self.cursor.text(length, what)?;
                // The empty string is never sent by reference (§1.3.2).
                if length > 0 {
                    self.strings.push(text.clone());
                }
                Ok(text)
            }
        }
    }

    fn head(&mut self, what: &'static str) -> Result<Head, Error> {
        let number = self.u29(what)? as usize;
        Ok(if number & 1 == 0 { Head::Reference(number >> 1) } else { Head::Inline(number >> 1) })
    }

    /// Seven bits a byte with the top bit for "more", except the fourth byte, which has all eight (§1.3.1).
    fn u29(&mut self, what: &'static str) -> Result<u32, Error> {
        let mut number = 0;
        for _ in 0..3 {
            let byte = self.cursor.u8(what)?;
            number = number << 7 | u32::from(byte & 0x7f);
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Ok(number << 8 | u32::from(self.cursor.u8(what)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_scalars() {
        let mut bytes = vec![0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x04, 0xff, 0xff, 0xff, 0xff, 0x05];
        bytes.extend(2.5f64.to_be_bytes());
        bytes.extend([0x06, 0x05, b'h', b'i', 0x06, 0x00, 0x06, 0x01]);
        assert_eq!(
            decode(&bytes).unwrap(),
            [
                Value::Undefined,
                Value::Null,
                Value::Boolean(false),
                Value::Boolean(true),
                5.0.into(),
                (-1.0).into(),
                2.5.into(),
                "hi".into(),
                "hi".into(),
                "".into(),
            ]
        );
    }

    #[test]
    fn reads_objects_by_their_traits() {
        // An object with one sealed property "a" and dynamic ones; then a second one with the same traits; then the
        // first one again by reference.
        let first = [0x0a, 0x1b, 0x01, 0x03, b'a', 0x04, 0x01, 0x03, b'b', 0x03, 0x01];
        let second = [0x0a, 0x01, 0x04, 0x02, 0x01];
        let bytes = [&first[..], &second, &[0x0a, 0x00]].concat();
        let object = Value::object([("a", 1.0.into()), ("b", Value::Boolean(true))]);
        assert_eq!(decode(&bytes).unwrap(), [object.clone(), Value::object([("a", 2.0.into())]), object]);
    }

    #[test]
    fn reads_arrays_vectors_dictionaries_and_bytes() {
        let bytes = [
            &[0x09, 0x05, 0x01, 0x04, 1, 0x04, 2][..],
            &[0x09, 0x03, 0x03, b'k', 0x01, 0x01, 0x03],
            &[0x0d, 0x03, 0x00, 0xff, 0xff, 0xff, 0xff],
            &[0x10, 0x03, 0x00, 0x01, 0x01],
            &[0x11, 0x03, 0x00, 0x04, 1, 0x03],
            &[0x0c, 0x05, 7, 8],
        ]
        .concat();
        assert_eq!(
            decode(&bytes).unwrap(),
            [
                Value::Array(vec![1.0.into(), 2.0.into()]),
                Value::object([("k", Value::Null), ("0", Value::Boolean(true))]),
                Value::Array(vec![(-1.0).into()]),
                Value::Array(vec![Value::Null]),
                Value::Array(vec![Value::Array(vec![1.0.into(), Value::Boolean(true)])]),
                Value::Bytes(Bytes::from_static(&[7, 8])),
            ]
        );
    }

    #[test]
    fn depth_count_and_references_are_bounded() {
        assert!(matches!(decode(&[0x09, 0x03, 0x01].repeat(1000)), Err(Error::TooDeep { .. })));
        assert!(matches!(decode(&[0x09, 0x03, 0x01, 0x09, 0x00]), Err(Error::TooDeep { .. })));
        assert!(matches!(decode(&[0x0d, 0xff, 0xff, 0xff, 0xff, 0x00]), Err(Error::Truncated { .. })));
        let names = [vec![0x0a, 0xff, 0xff, 0xff, 0xfb, 0x01], vec![0x01; 10_000]].concat();
        assert!(matches!(decode(&names), Err(Error::TooMany { .. })));
        assert!(matches!(decode(&[0x06, 0x02]), Err(Error::Reference { index: 1, .. })));
        assert!(matches!(decode(&[0x0a, 0x07, 0x03, b'X']), Err(Error::Externalizable { .. })));
    }
}
