//! Element types, parametric: integers of any width, floats by exponent and mantissa, fixed point.

use std::fmt;

/// An element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// Two's complement or unsigned integer of 1 to 64 bits.
    Int {
        /// Whether negative values exist.
        signed: bool,
        /// Width in bits.
        bits: u8,
    },
    /// IEEE-like binary float with a sign bit.
    Float {
        /// Exponent bits.
        exponent: u8,
        /// Mantissa bits, without the hidden one.
        mantissa: u8,
    },
    /// Signed fixed point: a two's complement integer times 2^-fraction. Results are exact, then rounded towards minus
    /// infinity and wrapped; conversion to integers rounds towards zero. It has `+ - * min max neg` and comparisons.
    Fixed {
        /// Bits before the point, sign included.
        integer: u8,
        /// Bits after the point.
        fraction: u8,
    },
}

impl DType {
    /// IEEE single precision.
    pub const F32: DType = DType::Float { exponent: 8, mantissa: 23 };
    /// IEEE half precision.
    pub const F16: DType = DType::Float { exponent: 5, mantissa: 10 };
    /// The upper half of single precision.
    pub const BF16: DType = DType::Float { exponent: 8, mantissa: 7 };
    /// IEEE double precision.
    pub const F64: DType = DType::Float { exponent: 11, mantissa: 52 };
    /// The type of loop variables, dimensions and indices.
    pub const INDEX: DType = DType::int(64);
    /// 32-bit signed.
    pub const I32: DType = DType::int(32);
    /// 32-bit unsigned.
    pub const U32: DType = DType::uint(32);
    /// 64-bit unsigned.
    pub const U64: DType = DType::uint(64);
    /// 8-bit signed.
    pub const I8: DType = DType::int(8);
    /// 8-bit unsigned.
    pub const U8: DType = DType::uint(8);
    /// The type of comparisons.
    pub const BOOL: DType = DType::uint(1);

    /// A signed integer type.
    pub const fn int(bits: u8) -> DType {
        DType::Int { signed: true, bits }
    }

    /// An unsigned integer type.
    pub const fn uint(bits: u8) -> DType {
        DType::Int { signed: false, bits }
    }

    /// Width in bits.
    pub fn bits(self) -> i64 {
        match self {
            DType::Int { bits, .. } => bits.into(),
            DType::Float { exponent, mantissa } => 1 + i64::from(exponent) + i64::from(mantissa),
            DType::Fixed { integer, fraction } => i64::from(integer) + i64::from(fraction),
        }
    }

    /// Whether it is a float.
    pub fn is_float(self) -> bool {
        matches!(self, DType::Float { .. })
    }

    /// Whether it is an integer.
    pub fn is_int(self) -> bool {
        matches!(self, DType::Int { .. })
    }

    /// The type of a text form such as `f32`, `u4`, `f8e4m3` or `fx8p4`.
    pub fn parse(s: &str) -> Option<DType> {
        match s {
            "f32" => return Some(DType::F32),
            "f16" => return Some(DType::F16),
            "bf16" => return Some(DType::BF16),
            "f64" => return Some(DType::F64),
            "bool" => return Some(DType::BOOL),
            "index" => return Some(DType::INDEX),
            _ => {}
        }
        if let Some(rest) = s.strip_prefix("fx") {
            let (i, f) = rest.split_once('p')?;
            let (integer, fraction): (u8, u8) = (i.parse().ok()?, f.parse().ok()?);
            let bits = u32::from(integer) + u32::from(fraction);
            return (1..=64).contains(&bits).then_some(DType::Fixed { integer, fraction });
        }
        if let Some((bits, rest)) = s.strip_prefix('f').and_then(|r| r.split_once('e')) {
            let (e, m) = rest.split_once('m')?;
            let (bits, exponent, mantissa): (u32, u8, u8) =
                (bits.parse().ok()?, e.parse().ok()?, m.parse().ok()?);
            let sound = (1..=11).contains(&exponent)
                && (1..=52).contains(&mantissa)
                && bits == 1 + u32::from(exponent) + u32::from(mantissa);
            return sound.then_some(DType::Float { exponent, mantissa });
        }
        let signed = match s.as_bytes().first()? {
            b'i' => true,
            b'u' => false,
            _ => return None,
        };
        let bits: u8 = s[1..].parse().ok()?;
        (1..=64).contains(&bits).then_some(DType::Int { signed, bits })
    }

    /// The nearest value of this type, as the interpreters compute: wraps integers, rounds floats.
    pub fn round(self, v: f64) -> f64 {
        match self {
            DType::F64 => v,
            DType::F32 => f64::from(v as f32),
            DType::F16 => half::f16::from_f64(v).to_f64(),
            DType::BF16 => half::bf16::from_f64(v).to_f64(),
            _ => v,
        }
    }

    /// Wraps an integer (that which is stored, for fixed point) to this type's width.
    pub fn wrap(self, v: i64) -> i64 {
        match self {
            DType::Fixed { .. } => DType::int(self.bits() as u8).wrap(v),
            DType::Int { bits: 64, .. } => v,
            DType::Int { signed, bits } => {
                let shift = 64 - u32::from(bits);
                if signed { (v << shift) >> shift } else { ((v as u64) << shift >> shift) as i64 }
            }
            _ => v,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            DType::F32 => write!(f, "f32"),
            DType::F16 => write!(f, "f16"),
            DType::BF16 => write!(f, "bf16"),
            DType::F64 => write!(f, "f64"),
            DType::BOOL => write!(f, "bool"),
            DType::INDEX => write!(f, "index"),
            DType::Int { signed, bits } => write!(f, "{}{bits}", if signed { 'i' } else { 'u' }),
            DType::Float { exponent, mantissa } => {
                write!(f, "f{}e{exponent}m{mantissa}", 1 + exponent + mantissa)
            }
            DType::Fixed { integer, fraction } => write!(f, "fx{integer}p{fraction}"),
        }
    }
}
