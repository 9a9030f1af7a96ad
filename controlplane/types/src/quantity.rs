//! Resource quantities: `100m`, `1.5Gi`, `2e3`. Exact to a billionth, as upstream's are.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// A quantity of something, with the family of suffixes it was written in.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    /// Value in billionths; finer parts are rounded up on parsing.
    nanos: i128,
    format: Format,
}

/// The family of suffixes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Powers of 1000: m, k, M, G ...
    DecimalSi,
    /// Powers of 1024: Ki, Mi, Gi ...
    BinarySi,
    /// e3, e6 ...
    DecimalExponent,
}

/// The text is no quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
pub struct QuantityError;

const NANO: i128 = 1_000_000_000;
/// Upstream caps at 2^63 - 1.
const MAX: i128 = i64::MAX as i128 * NANO;
/// Digits that a number may have: enough for the cap and nine decimals; the rest would overflow.
const DIGITS_LIMIT: usize = 28;

const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
const BINARY: [(&str, u32); 6] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];

impl Quantity {
    /// Zero.
    pub const ZERO: Quantity = Quantity { nanos: 0, format: Format::DecimalSi };

    /// Makes a quantity of whole units.
    pub fn from_units(units: i64, format: Format) -> Self {
        Quantity { nanos: i128::from(units) * NANO, format }
    }

    /// Makes a quantity of thousandths, e.g. of a CPU.
    pub fn from_milli(milli: i64) -> Self {
        Quantity { nanos: i128::from(milli) * (NANO / 1000), format: Format::DecimalSi }
    }

    /// Returns whole units, rounded up.
    pub fn units(&self) -> i64 {
        saturate(divide_up(self.nanos, NANO))
    }

    /// Returns thousandths, rounded up.
    pub fn milli(&self) -> i64 {
        saturate(divide_up(self.nanos, NANO / 1000))
    }

    /// Returns the sum, in this quantity's format.
    #[must_use]
    pub fn plus(self, other: Quantity) -> Self {
        Quantity { nanos: (self.nanos + other.nanos).clamp(-MAX, MAX), ..self }
    }

    /// Returns the difference, in this quantity's format.
    #[must_use]
    pub fn minus(self, other: Quantity) -> Self {
        Quantity { nanos: (self.nanos - other.nanos).clamp(-MAX, MAX), ..self }
    }

    /// Tells whether the value is below zero.
    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }

    /// Tells whether the value is zero.
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// Tells whether the value has no fraction.
    pub fn is_whole(&self) -> bool {
        self.nanos % NANO == 0
    }
}

fn divide_up(value: i128, by: i128) -> i128 {
    let quotient = value / by;
    if value % by > 0 { quotient + 1 } else { quotient }
}

fn saturate(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(QuantityError);
        }
        let fraction = fraction.trim_end_matches('0');
        let digits = format!("{}{fraction}", whole.trim_start_matches('0'));
        let (exponent, shift, format) = read_suffix(suffix)?;
        let tenths = exponent + 9 - i32::try_from(fraction.len()).map_err(|_| QuantityError)?;
        let magnitude = scale(&digits, shift, tenths);
        Ok(Quantity { nanos: if negative { -magnitude } else { magnitude }, format })
    }
}

fn read_suffix(suffix: &str) -> Result<(i32, u32, Format), QuantityError> {
    if let Some((_, exponent)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Ok((*exponent, 0, Format::DecimalSi));
    }
    if let Some((_, shift)) = BINARY.iter().find(|(name, _)| *name == suffix) {
        return Ok((0, *shift, Format::BinarySi));
    }
    let exponent = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError)?;
    let exponent = exponent.parse::<i32>().map_err(|_| QuantityError)?;
    Ok((exponent.clamp(-1000, 1000), 0, Format::DecimalExponent))
}

/// Returns digits * 2^shift * 10^tenths, rounded up, at most [`MAX`].
fn scale(digits: &str, shift: u32, tenths: i32) -> i128 {
    if digits.is_empty() {
        return 0;
    }
    // Leading digits alone decide once the number is past the cap; trailing ones are below a billionth.
    let kept = digits.len().min(DIGITS_LIMIT);
    let lost = i32::try_from(digits.len() - kept).unwrap_or(i32::MAX);
    let Ok(mut value) = digits[..kept].parse::<i128>() else { return MAX };
    let mut tenths = tenths.saturating_add(lost);
    let mut rounded = digits[kept..].bytes().any(|digit| digit != b'0');
    // Dividing last keeps fractions of binary units exact.
    let mut shift = shift;
    while shift > 0 && value.checked_mul(2).is_some() {
        value *= 2;
        shift -= 1;
    }
    if shift > 0 {
        return MAX;
    }
    while tenths > 0 {
        match value.checked_mul(10) {
            Some(more) if more <= MAX => value = more,
            Some(_) | None => return MAX,
        }
        tenths -= 1;
    }
    while tenths < 0 && (value > 0 || rounded) {
        rounded |= value % 10 != 0;
        value /= 10;
        tenths += 1;
        if value == 0 {
            break;
        }
    }
    (value + i128::from(rounded)).min(MAX)
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let whole = self.nanos % NANO == 0;
        if self.format == Format::BinarySi && whole && self.nanos.abs() >= 1024 * NANO {
            let units = self.nanos / NANO;
            let fits = BINARY.iter().rev().find(|(_, shift)| units % (1_i128 << shift) == 0);
            return match fits {
                Some((suffix, shift)) => write!(f, "{}{suffix}", units >> shift),
                None => write!(f, "{units}"),
            };
        }
        let mut value = self.nanos;
        let mut exponent = -9;
        while value % 1000 == 0 && exponent < 18 {
            value /= 1000;
            exponent += 3;
        }
        match (self.format, DECIMAL.iter().find(|(_, power)| *power == exponent)) {
            (Format::DecimalExponent, _) if exponent != 0 => write!(f, "{value}e{exponent}"),
            (_, Some((suffix, _))) => write!(f, "{value}{suffix}"),
            (_, None) => write!(f, "{value}"),
        }
    }
}
