//! The `data` of a JSON tensor: numbers, truth values or strings, flat or nested, into the bytes of the datatype.
//!
//! Reads text that a JSON parser has accepted already, so it checks values and not syntax. No tree is built: an array
//! of a million numbers costs the bytes of its datatype.

use bytes::{BufMut, Bytes, BytesMut};
use half::{bf16, f16};

use crate::{
    datatype::Datatype,
    error::{Problem, quoted},
    tensor::TensorData,
};

/// Not-a-number and the infinities, which JSON has no numbers for, are written as protobuf's JSON mapping does.
pub(super) const NAN: &str = "NaN";
pub(super) const INFINITY: &str = "Infinity";
pub(super) const NEGATIVE_INFINITY: &str = "-Infinity";
/// Memory reserved ahead for a shape nobody has checked against the data yet: an element needs two bytes of JSON.
const JSON_BYTES_PER_ELEMENT: usize = 2;

/// Reads `text`, which is a part of `body` (elements of BYTES share its memory), as `wants` elements of `datatype`.
pub(super) fn read(
    text: &str,
    body: &Bytes,
    datatype: Datatype,
    shape: &[i64],
    wants: usize,
) -> Result<TensorData, Problem> {
    let capacity = wants.min(text.len() / JSON_BYTES_PER_ELEMENT + 1);
    let mut sink = Sink { datatype, raw: BytesMut::new(), elements: Vec::new() };
    match datatype.width() {
        Some(width) => sink.raw.reserve(capacity * width),
        None => sink.elements.reserve(capacity),
    }
    let mut count = 0;
    let mut scanner = Scanner { text, position: 0 };
    while let Some(token) = scanner.next_token()? {
        if count < wants {
            sink.push(token, body).map_err(|()| Problem::Element {
                index: count,
                value: quoted(token.text()),
                datatype,
            })?;
        }
        count += 1;
    }
    if count != wants {
        return Err(Problem::ElementCount { shape: shape.to_vec(), wants, has: count });
    }
    Ok(if datatype == Datatype::Bytes {
        TensorData::Elements(sink.elements)
    } else {
        TensorData::Raw(sink.raw.freeze())
    })
}

#[derive(Clone, Copy)]
enum Token<'a> {
    /// A number, `true`, `false` or `null`.
    Word(&'a str),
    /// A string, with its quotes.
    Quoted(&'a str),
}

impl<'a> Token<'a> {
    fn text(self) -> &'a str {
        match self {
            Self::Word(text) | Self::Quoted(text) => text,
        }
    }
}

/// Walks the leaves of nested arrays.
struct Scanner<'a> {
    text: &'a str,
    position: usize,
}

impl<'a> Scanner<'a> {
    fn next_token(&mut self) -> Result<Option<Token<'a>>, Problem> {
        let bytes = self.text.as_bytes();
        while let Some(byte) = bytes.get(self.position) {
            match byte {
                b'[' | b']' | b',' | b' ' | b'\t' | b'\n' | b'\r' => self.position += 1,
                b'{' => {
                    let found = quoted(self.text.get(self.position..).unwrap_or_default());
                    return Err(Problem::WrongType { wants: "an array of numbers, truth values or strings", found });
                }
                b'"' => return Ok(Some(Token::Quoted(self.take_string(bytes)))),
                _ => {
                    let start = self.position;
                    let rest = bytes.get(start..).unwrap_or_default();
                    let length = rest.iter().position(|b| matches!(b, b',' | b']' | b' ' | b'\t' | b'\n' | b'\r'));
                    self.position = start + length.unwrap_or(rest.len());
                    return Ok(Some(Token::Word(self.text.get(start..self.position).unwrap_or_default())));
                }
            }
        }
        Ok(None)
    }

    fn take_string(&mut self, bytes: &[u8]) -> &'a str {
        let start = self.position;
        self.position += 1;
        while let Some(byte) = bytes.get(self.position) {
            match byte {
                b'\\' => self.position += 2,
                b'"' => break,
                _ => self.position += 1,
            }
        }
        self.position = (self.position + 1).min(bytes.len());
        self.text.get(start..self.position).unwrap_or_default()
    }
}

struct Sink {
    datatype: Datatype,
    raw: BytesMut,
    elements: Vec<Bytes>,
}

impl Sink {
    fn push(&mut self, token: Token<'_>, body: &Bytes) -> Result<(), ()> {
        macro_rules! integer {
            ($type:ty) => {
                self.raw.extend_from_slice(&integer::<$type>(token)?.to_le_bytes())
            };
        }
        match self.datatype {
            Datatype::Bool => self.raw.put_u8(u8::from(boolean(token)?)),
            Datatype::Uint8 => integer!(u8),
            Datatype::Uint16 => integer!(u16),
            Datatype::Uint32 => integer!(u32),
            Datatype::Uint64 => integer!(u64),
            Datatype::Int8 => integer!(i8),
            Datatype::Int16 => integer!(i16),
            Datatype::Int32 => integer!(i32),
            Datatype::Int64 => integer!(i64),
            Datatype::Fp16 => {
                let value = float::<f64>(token)?;
                let half = f16::from_f64(value);
                if half.is_infinite() && value.is_finite() {
                    return Err(());
                }
                self.raw.extend_from_slice(&half.to_le_bytes());
            }
            Datatype::Bf16 => {
                let value = float::<f64>(token)?;
                let half = bf16::from_f64(value);
                if half.is_infinite() && value.is_finite() {
                    return Err(());
                }
                self.raw.extend_from_slice(&half.to_le_bytes());
            }
            Datatype::Fp32 => self.raw.extend_from_slice(&float::<f32>(token)?.to_le_bytes()),
            Datatype::Fp64 => self.raw.extend_from_slice(&float::<f64>(token)?.to_le_bytes()),
            Datatype::Bytes => self.elements.push(string(token, body)?),
        }
        Ok(())
    }
}

fn boolean(token: Token<'_>) -> Result<bool, ()> {
    match token {
        Token::Word("true" | "1") => Ok(true),
        Token::Word("false" | "0") => Ok(false),
        Token::Word(_) | Token::Quoted(_) => Err(()),
    }
}

/// Integers of the wire, up to the widest.
trait Integer: std::str::FromStr + TryFrom<i128> {}
impl<T: std::str::FromStr + TryFrom<i128>> Integer for T {}

fn integer<T: Integer>(token: Token<'_>) -> Result<T, ()> {
    let Token::Word(text) = token else { return Err(()) };
    if let Ok(value) = text.parse() {
        return Ok(value);
    }
    // Some clients write whole numbers as 3.0 or 1e3.
    if !text.contains(['.', 'e', 'E']) {
        return Err(());
    }
    let value: f64 = text.parse().map_err(|_| ())?;
    if value.fract() != 0.0 || !value.is_finite() {
        return Err(());
    }
    #[expect(clippy::cast_possible_truncation, reason = "the cast saturates, and saturated values fit no datatype")]
    T::try_from(value as i128).map_err(|_| ())
}

/// The floating-point types; std reads them exactly, and short numbers are read exactly without it.
trait Float: std::str::FromStr + Copy {
    fn is_infinite(self) -> bool;
    /// The number nearest to a decimal of which `value` is the nearest double; `None` where that cannot be told.
    fn from_nearest(value: f64) -> Option<Self>;
    const SPECIAL: [Self; 3];
}
impl Float for f32 {
    fn is_infinite(self) -> bool {
        self.is_infinite()
    }
    fn from_nearest(value: f64) -> Option<Self> {
        // Rounding twice goes wrong only when the first result lies half-way between two floats.
        const CUT_BITS: u64 = (1 << 29) - 1;
        const HALF: u64 = 1 << 28;
        let is_normal = value.abs() >= Self::MIN_POSITIVE.into() && value.abs() < Self::MAX.into();
        #[expect(clippy::cast_possible_truncation, reason = "rounding to the nearest float is what is wanted")]
        (is_normal && value.to_bits() & CUT_BITS != HALF).then_some(value as Self)
    }
    const SPECIAL: [Self; 3] = [Self::NAN, Self::INFINITY, Self::NEG_INFINITY];
}
impl Float for f64 {
    fn is_infinite(self) -> bool {
        self.is_infinite()
    }
    fn from_nearest(value: f64) -> Option<Self> {
        Some(value)
    }
    const SPECIAL: [Self; 3] = [Self::NAN, Self::INFINITY, Self::NEG_INFINITY];
}

fn float<T: Float>(token: Token<'_>) -> Result<T, ()> {
    match token {
        Token::Word(text) => {
            if let Some(value) = short_decimal(text.as_bytes()).and_then(T::from_nearest) {
                return Ok(value);
            }
            let value: T = text.parse().map_err(|_| ())?;
            // A number beyond the type's range becomes infinite.
            if value.is_infinite() { Err(()) } else { Ok(value) }
        }
        Token::Quoted(text) => {
            let [nan, infinity, negative_infinity] = T::SPECIAL;
            match text.trim_matches('"') {
                NAN => Ok(nan),
                INFINITY => Ok(infinity),
                NEGATIVE_INFINITY => Ok(negative_infinity),
                _ => Err(()),
            }
        }
    }
}

/// Powers of ten that a double holds exactly.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];
/// Whole numbers up to here are exact in a double.
const MAX_MANTISSA: u64 = 1 << 53;

/// The double nearest to a number without exponent whose digits and power of ten are both exact in a double: then one
/// division rounds once. `None` for all others.
fn short_decimal(text: &[u8]) -> Option<f64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    let mut mantissa = 0_u64;
    let mut point = None;
    for (index, byte) in digits.iter().enumerate() {
        match byte {
            b'0'..=b'9' if mantissa <= MAX_MANTISSA => mantissa = mantissa * 10 + u64::from(byte - b'0'),
            b'.' if point.is_none() => point = Some(index),
            _ => return None,
        }
    }
    let fraction = point.map_or(0, |point| digits.len() - point - 1);
    let power = POWERS.get(fraction)?;
    #[expect(clippy::cast_precision_loss, reason = "checked: the number is exact")]
    let value = (mantissa <= MAX_MANTISSA && !digits.is_empty()).then(|| mantissa as f64 / power)?;
    Some(if negative { -value } else { value })
}

fn string(token: Token<'_>, body: &Bytes) -> Result<Bytes, ()> {
    let Token::Quoted(text) = token else { return Err(()) };
    if text.contains('\\') {
        return serde_json::from_str::<String>(text).map(Bytes::from).map_err(|_| ());
    }
    let inner = text.get(1..text.len() - 1).unwrap_or_default();
    Ok(if inner.is_empty() { Bytes::new() } else { body.slice_ref(inner.as_bytes()) })
}
