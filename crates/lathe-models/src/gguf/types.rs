//! The tensor element types of GGUF: which we read, and the names of those we do not. How blocks lie in memory and what they
//! mean is in the table of encodings (`lathe_ir::encodings`), under the same names.

use lathe_ir::encodings::formats;

macro_rules! types {
    ({$($(#[$doc:meta])* $name:ident = $id:literal,)*} {$($(#[$int_doc:meta])* $int:ident = $int_id:literal,)*}
     {$($(#[$other_doc:meta])* $other:ident,)*}) => {
        /// An element type Lathe reads.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(non_camel_case_types, reason = "the names that files and people use")]
        pub enum GgmlType {
            $($(#[$doc])* $name,)*
            $($(#[$int_doc])* $int,)*
            $($(#[$other_doc])* $other,)*
        }

        impl GgmlType {
            /// Every type of GGUF that stands for floats.
            pub const ALL: &[GgmlType] = &[$(GgmlType::$name),*];

            /// The integers, which mean something only beside other tensors.
            pub const INTEGERS: &[GgmlType] = &[$(GgmlType::$int),*];

            /// The number that stands for this type in a GGUF file; none where there is no such type there.
            pub fn id(self) -> Option<u32> {
                match self {
                    $(GgmlType::$name => Some($id),)*
                    $(GgmlType::$int => Some($int_id),)*
                    $(GgmlType::$other => None,)*
                }
            }

            /// The usual name, as in `Q4_1`.
            pub fn name(self) -> &'static str {
                match self {
                    $(GgmlType::$name => stringify!($name),)*
                    $(GgmlType::$int => stringify!($int),)*
                    $(GgmlType::$other => stringify!($other),)*
                }
            }
        }
    };
}

types! {{
    /// IEEE single precision.
    F32 = 0,
    /// IEEE half precision.
    F16 = 1,
    /// The upper half of an IEEE single.
    BF16 = 30,
    /// 4-bit codes with a scale for 32.
    Q4_0 = 2,
    /// 4-bit codes with a scale and a minimum for 32.
    Q4_1 = 3,
    /// 5-bit codes with a scale for 32.
    Q5_0 = 6,
    /// 5-bit codes with a scale and a minimum for 32.
    Q5_1 = 7,
    /// Signed bytes with a scale for 32.
    Q8_0 = 8,
    /// 2-bit codes; 4-bit scales and minima for 16 in blocks of 256.
    Q2_K = 10,
    /// 3-bit codes; 6-bit scales for 16 in blocks of 256.
    Q3_K = 11,
    /// 4-bit codes; 6-bit scales and minima for 32 in blocks of 256.
    Q4_K = 12,
    /// 5-bit codes; 6-bit scales and minima for 32 in blocks of 256.
    Q5_K = 13,
    /// 6-bit codes; 8-bit scales for 16 in blocks of 256.
    Q6_K = 14,
    /// 4-bit codes of 16 levels with a scale for 32.
    IQ4_NL = 20,
    /// 4-bit codes of 16 levels; 6-bit scales for 32 in blocks of 256.
    IQ4_XS = 23,
} {
    /// Signed bytes: weights whose scales lie apart.
    I8 = 24,
    /// 32-bit integers: numbers of columns.
    I32 = 26,
} {
    /// 4-bit codes of 16 levels with a scale for 64; of safetensors.
    NF4,
}}

impl GgmlType {
    /// The type a file's number stands for, if Lathe reads it.
    pub fn from_id(id: u32) -> Option<GgmlType> {
        GgmlType::ALL.iter().chain(GgmlType::INTEGERS).find(|t| t.id() == Some(id)).copied()
    }

    /// The encoding's name in a graph, as in `q4_1`.
    pub fn encoding(self) -> String {
        self.name().to_ascii_lowercase()
    }

    fn block(self) -> (usize, usize) {
        match self {
            GgmlType::F32 | GgmlType::I32 => (1, 4),
            GgmlType::I8 => (1, 1),
            GgmlType::F16 | GgmlType::BF16 => (1, 2),
            other => {
                let name = other.encoding();
                let found = formats().find(|(n, ..)| *n == name).expect("a block format of every type");
                (found.1 as usize, found.2 as usize)
            }
        }
    }

    /// Elements in one block, along the innermost dimension.
    pub fn block_len(self) -> usize {
        self.block().0
    }

    /// Bytes in one block.
    pub fn block_bytes(self) -> usize {
        self.block().1
    }

    /// Bytes of `elements` values, or `None` where they do not fill whole blocks or do not fit.
    pub fn bytes_for(self, elements: usize) -> Option<usize> {
        let (len, bytes) = self.block();
        elements.is_multiple_of(len).then(|| (elements / len).checked_mul(bytes))?
    }
}

impl std::fmt::Display for GgmlType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The name of a type that exists in GGUF files but that Lathe does not read.
pub(super) fn unread_type_name(id: u32) -> Option<&'static str> {
    Some(match id {
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        21 => "IQ3_S",
        22 => "IQ2_S",
        25 => "I16",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        40 => "NVFP4",
        _ => return None,
    })
}
