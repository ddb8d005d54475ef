//! A matrix that was rounded for the inputs it meets, until it is written.

use super::calibrate::{Factor, round};
use super::codec::{Block, Codec};
use super::file::{Loss, QuantizeError, Rows};
use super::groups::{Group, Groups};
use super::search::Search;
use crate::file::{ModelFile, TensorInfo};
use crate::gguf::GgmlType;

/// What a matrix is rounded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// Blocks of a type.
    Type(GgmlType),
    /// 4-bit codes with a scale for so many columns, and perhaps a zero point.
    Groups {
        /// Columns of a group.
        columns: usize,
        /// Whether groups have zero points.
        zeros: bool,
    },
}

/// What a rounded matrix is stored as, row by row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Stored {
    Blocks(GgmlType, Vec<u8>),
    Groups(Vec<(Group, Vec<u8>)>),
}

/// A matrix that was rounded.
#[derive(Clone, Debug, PartialEq)]
pub struct Rounded {
    pub(crate) stored: Stored,
    pub(crate) loss: Loss,
}

impl Rounded {
    /// The matrix of a product of this model, rounded so that its products with inputs of this factor lose little, and the values
    /// that it has then; `None` where its rows are no whole blocks, or the type is none of blocks.
    pub fn new(
        file: &ModelFile,
        info: &TensorInfo,
        to: Rounding,
        inputs: &Factor,
        threads: usize,
    ) -> Result<Option<(Rounded, Vec<f32>)>, QuantizeError> {
        let codec = if let Rounding::Type(ty) = to { Codec::of(ty) } else { None };
        let block = match (to, &codec) {
            (Rounding::Groups { columns, .. }, _) => columns,
            (_, Some(codec)) => codec.block,
            (_, None) => return Ok(None),
        };
        let width = info.dims().first().copied().unwrap_or(0);
        if width != inputs.width() || width == 0 || !width.is_multiple_of(block) {
            return Ok(None);
        }
        let values = Rows::stored(file, info)?.values()?;
        let (stored, rounded) = match (to, &codec) {
            (Rounding::Type(ty), Some(codec)) => {
                let (blocks, rounded) = round(&Search::new(codec), &values, inputs, threads);
                let mut bytes = vec![];
                blocks.iter().for_each(|b: &Block| codec.write(b, &mut bytes));
                (Stored::Blocks(ty, bytes), rounded)
            }
            (Rounding::Groups { columns, zeros }, _) => {
                let (groups, rounded) = round(&Groups { columns, zeros }, &values, inputs, threads);
                (Stored::Groups(groups), rounded)
            }
            (Rounding::Type(_), None) => return Ok(None),
        };
        let loss = Loss::of(&values, &rounded);
        if let Some((value, _)) = values.iter().zip(&rounded).find(|(_, y)| !y.is_finite()) {
            let (tensor, value) = (info.name().to_owned(), *value);
            let ty = if let Rounding::Type(ty) = to { ty } else { GgmlType::F16 };
            return Err(QuantizeError::TooLarge { tensor, value, ty });
        }
        Ok(Some((Rounded { stored, loss }, rounded)))
    }

    /// The type of its blocks; of groups, that of their scales.
    pub fn ty(&self) -> GgmlType {
        match &self.stored {
            Stored::Blocks(ty, _) => *ty,
            Stored::Groups(_) => GgmlType::F16,
        }
    }
}
