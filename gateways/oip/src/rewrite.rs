//! Replaces the model's name in an encoded protobuf request without decoding it: the proxies' hot path.
//!
//! Works on `ModelInferRequest`, `ModelReadyRequest` and `ModelMetadataRequest` alike: field 1 is the name, field 2 the
//! version, everything else is passed on as slices of the input. Looks at top-level fields only and jumps over bodies.

use bytes::{BufMut, Bytes, BytesMut};

const NAME_FIELD: u64 = 1;
const VERSION_FIELD: u64 = 2;
/// Field 1, length-delimited.
const NAME_TAG: u8 = 0x0a;
/// A varint of 64 bits has at most this many bytes.
const MAX_VARINT: usize = 10;
/// A well-behaved message has one name and one version, so at most two pieces remain. The pieces of a
/// message after these are copied together, so that a hostile one cannot turn its bytes into many times as much bookkeeping.
const MAX_PIECES: usize = 16;

/// Bytes that are not a protobuf message of this protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The message ends inside a field.
    #[error("message ends inside the field at byte {at}")]
    Truncated {
        /// Where the field starts.
        at: usize,
    },
    /// A tag or length is no varint, or a field has number 0.
    #[error("no field tag at byte {at}")]
    Tag {
        /// Where.
        at: usize,
    },
    /// A wire type these messages do not use.
    #[error("field {field} at byte {at} has the wire type {wire_type}, which these messages do not use")]
    WireType {
        /// Field number.
        field: u64,
        /// Wire type.
        wire_type: u8,
        /// Where.
        at: usize,
    },
    /// The name or version is not UTF-8.
    #[error("field {field} at byte {at} is not valid UTF-8")]
    Utf8 {
        /// Field number.
        field: u64,
        /// Where.
        at: usize,
    },
}

/// A rewritten message: `head`, then `rest` in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewritten {
    /// The encoded new name.
    pub head: Bytes,
    /// Everything but the old name and version: slices of the original message.
    pub rest: Vec<Bytes>,
}

impl Rewritten {
    /// The length of the whole message.
    #[must_use]
    pub fn len(&self) -> usize {
        self.head.len() + self.rest.iter().map(Bytes::len).sum::<usize>()
    }

    /// Whether the message has no bytes at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The model's name in an encoded request, empty when there is none. As in every protobuf reader, the last one counts.
///
/// # Errors
/// The bytes are not such a message.
pub fn peek_model_name(message: &[u8]) -> Result<&str, Malformed> {
    let mut name = "";
    let mut fields = Fields { message, position: 0 };
    while let Some(field) = fields.next_field()? {
        match field.number {
            NAME_FIELD => name = field.text()?,
            // Not needed here, but a request that cannot be rewritten is refused before anything is done for it.
            VERSION_FIELD => drop(field.text()?),
            _ => {}
        }
    }
    Ok(name)
}

/// Puts `name` in the place of the model's name and drops the version.
///
/// # Errors
/// The bytes are not such a message.
pub fn rewrite_model_name(message: &Bytes, name: &str) -> Result<Rewritten, Malformed> {
    let mut rest: Vec<Bytes> = Vec::with_capacity(2);
    let mut overflow = BytesMut::new();
    let mut keep_from = 0;
    let mut fields = Fields { message, position: 0 };
    let mut keep = |from: usize, to: usize| {
        if from == to {
            return;
        }
        if rest.len() < MAX_PIECES {
            rest.push(message.slice(from..to));
        } else {
            overflow.extend_from_slice(&message[from..to]);
        }
    };
    while let Some(field) = fields.next_field()? {
        if field.number == NAME_FIELD || field.number == VERSION_FIELD {
            field.text()?;
            keep(keep_from, field.at);
            keep_from = fields.position;
        }
    }
    keep(keep_from, message.len());
    if !overflow.is_empty() {
        rest.push(overflow.freeze());
    }
    Ok(Rewritten { head: encode_name(name), rest })
}

fn encode_name(name: &str) -> Bytes {
    if name.is_empty() {
        return Bytes::new();
    }
    let mut head = BytesMut::with_capacity(1 + MAX_VARINT + name.len());
    head.put_u8(NAME_TAG);
    let mut length = name.len();
    while length > 0x7f {
        head.put_u8((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    head.put_u8(length as u8);
    head.extend_from_slice(name.as_bytes());
    head.freeze()
}

struct Field<'a> {
    at: usize,
    number: u64,
    wire_type: u8,
    /// The payload of a length-delimited field, else empty.
    payload: &'a [u8],
}

impl<'a> Field<'a> {
    fn text(&self) -> Result<&'a str, Malformed> {
        if self.wire_type != 2 {
            return Err(Malformed::WireType { field: self.number, wire_type: self.wire_type, at: self.at });
        }
        std::str::from_utf8(self.payload).map_err(|_| Malformed::Utf8 { field: self.number, at: self.at })
    }
}

struct Fields<'a> {
    message: &'a [u8],
    position: usize,
}

impl<'a> Fields<'a> {
    fn next_field(&mut self) -> Result<Option<Field<'a>>, Malformed> {
        let at = self.position;
        if at == self.message.len() {
            return Ok(None);
        }
        let tag = self.varint(at)?;
        let (number, wire_type) = (tag >> 3, (tag & 7) as u8);
        // Field numbers have 29 bits.
        if number == 0 || tag > u64::from(u32::MAX) {
            return Err(Malformed::Tag { at });
        }
        let length = match wire_type {
            0 => {
                self.varint(at)?;
                0
            }
            1 => 8,
            2 => usize::try_from(self.varint(at)?).map_err(|_| Malformed::Truncated { at })?,
            5 => 4,
            // 3 and 4 are groups, 6 and 7 do not exist.
            _ => return Err(Malformed::WireType { field: number, wire_type, at }),
        };
        let end = self.position.checked_add(length).ok_or(Malformed::Truncated { at })?;
        let payload = self.message.get(self.position..end).ok_or(Malformed::Truncated { at })?;
        self.position = end;
        Ok(Some(Field { at, number, wire_type, payload }))
    }

    fn varint(&mut self, field_at: usize) -> Result<u64, Malformed> {
        let mut value = 0_u64;
        for shift in 0..MAX_VARINT {
            let byte = *self.message.get(self.position).ok_or(Malformed::Truncated { at: field_at })?;
            self.position += 1;
            let low = u64::from(byte & 0x7f);
            // The tenth byte may carry one bit only.
            if shift == MAX_VARINT - 1 && byte > 1 {
                return Err(Malformed::Tag { at: field_at });
            }
            value |= low << (7 * shift);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed::Tag { at: field_at })
    }
}
