//! Amounts as Kubernetes writes them: `1000`, `48Mi`, `1.5Gi`, `2e9`, `100m`. Only what is a whole number of bytes
//! becomes [`Bytes`].

use domain::Bytes;
use serde::{Deserialize, Serialize};

/// Longest quantity that is looked at; twice what the largest number of bytes with nine decimals needs.
const LONGEST: usize = 64;
/// Decimal exponents beyond this make every number either 0 or far too large.
const LARGEST_EXPONENT: i32 = 40;
/// What a Kubernetes integer can hold.
const LARGEST: u128 = i64::MAX as u128;

/// An amount as written: a number or a text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Quantity {
    /// A plain number.
    Number(serde_json::Number),
    /// A number with a suffix.
    Text(String),
}

/// Why a text is no amount of memory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no amount of memory such as 1000000, 48Mi or 1.5Gi: {problem}")]
pub struct BadQuantity {
    text: String,
    problem: &'static str,
}

impl Quantity {
    /// The amount in whole bytes.
    pub fn bytes(&self) -> Result<Bytes, BadQuantity> {
        let text = match self {
            Quantity::Number(number) => number.to_string(),
            Quantity::Text(text) => text.clone(),
        };
        parse(&text).map_err(|problem| BadQuantity { text: text.chars().take(LONGEST).collect(), problem })
    }
}

fn parse(text: &str) -> Result<Bytes, &'static str> {
    const SHAPE: &str = "it is not a number with one of the suffixes n u m k M G T P E Ki Mi Gi Ti Pi Ei";
    const TOO_LARGE: &str = "it is too large";
    if text.len() > LONGEST {
        return Err("it is too long");
    }
    let (negative, unsigned) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let end = unsigned.bytes().position(|b| !b.is_ascii_digit() && b != b'.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(SHAPE);
    }
    let (power_of_two, exponent) = scale(suffix).ok_or(SHAPE)?;
    let fraction = fraction.trim_end_matches('0');
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return Ok(Bytes(0));
    }
    if negative {
        return Err("it is negative");
    }
    // value = digits × 10^(exponent - decimals) × 2^power_of_two
    let mut value: u128 = digits.parse().map_err(|_| TOO_LARGE)?;
    value = value.checked_mul(1 << power_of_two).ok_or(TOO_LARGE)?;
    let decimals = i32::try_from(fraction.len()).map_err(|_| TOO_LARGE)?;
    let tens = exponent - decimals;
    for _ in 0..tens.unsigned_abs().min(LARGEST_EXPONENT.unsigned_abs()) {
        if tens > 0 {
            value = value.checked_mul(10).ok_or(TOO_LARGE)?;
        } else if value.is_multiple_of(10) {
            value /= 10;
        } else {
            return Err("it is not a whole number of bytes");
        }
    }
    if value > LARGEST {
        return Err(TOO_LARGE);
    }
    u64::try_from(value).map(Bytes).map_err(|_| TOO_LARGE)
}

/// Power of two and decimal exponent of a suffix.
fn scale(suffix: &str) -> Option<(u32, i32)> {
    Some(match suffix {
        "" => (0, 0),
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        "Ki" => (10, 0),
        "Mi" => (20, 0),
        "Gi" => (30, 0),
        "Ti" => (40, 0),
        "Pi" => (50, 0),
        "Ei" => (60, 0),
        exponent => {
            let digits = exponent.strip_prefix(['e', 'E'])?;
            let number: i32 = digits.parse().ok()?;
            (0, number.clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::Quantity;

    fn bytes(text: &str) -> Result<u64, String> {
        Quantity::Text(text.to_owned()).bytes().map(|bytes| bytes.0).map_err(|error| error.to_string())
    }

    #[test]
    fn a_quantity_is_what_kubernetes_says_it_is() {
        for (text, expected) in [
            ("0", 0),
            ("1000000", 1_000_000),
            ("+7", 7),
            ("48Mi", 48 << 20),
            ("1.5Gi", 3 << 29),
            (".5Ki", 512),
            ("5.", 5),
            ("2k", 2000),
            ("3M", 3_000_000),
            ("1G", 1_000_000_000),
            ("1T", 1_000_000_000_000),
            ("7E", 7_000_000_000_000_000_000),
            ("1Ti", 1 << 40),
            ("1Pi", 1 << 50),
            ("7Ei", 7 << 60),
            ("2e9", 2_000_000_000),
            ("2E+3", 2000),
            ("5000e-3", 5),
            ("3000m", 3),
            ("1.0", 1),
            ("000012", 12),
            ("-0", 0),
            ("9223372036854775807", i64::MAX as u64),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_whole_number_of_bytes_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", "not a number"),
            ("x", "not a number"),
            ("1MB", "not a number"),
            ("1.2.3", "not a number"),
            ("1 Mi", "not a number"),
            ("Mi", "not a number"),
            ("e5", "not a number"),
            ("1e", "not a number"),
            ("--1", "not a number"),
            ("ü", "not a number"),
            ("100m", "whole number"),
            ("1.5", "whole number"),
            ("1e-999999999", "whole number"),
            ("0.0001Ki", "whole number"),
            ("-1", "negative"),
            ("8Ei", "too large"),
            ("9223372036854775808", "too large"),
            ("1e999999999", "too large"),
            (&"9".repeat(60), "too large"),
            (&"1".repeat(1000), "too long"),
        ] {
            let error = bytes(text).expect_err(text);
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn a_quantity_may_be_a_plain_number() {
        let number = |json: &str| serde_json::from_str::<Quantity>(json).expect("a quantity").bytes().map(|b| b.0);
        assert_eq!(number("1024"), Ok(1024));
        assert_eq!(number("2000.0"), Ok(2000));
        assert!(number("1.5").is_err());
        assert!(number("-3").is_err());
        assert!(number("1e300").is_err());
    }
}
