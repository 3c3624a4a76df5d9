//! A tensor: datatype, shape and data that agree.
//!
//! Invariant: `data` holds exactly the product of `shape` elements; raw data is little-endian in row-major order, and
//! BOOL bytes are 0 or 1.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::{datatype::Datatype, error::Problem, parameter::Parameters};

/// More dimensions than any model has; a bound for hostile shapes.
pub(crate) const MAX_RANK: usize = 64;
/// Raw BYTES elements carry their length in front, as a little-endian u32.
const LENGTH_PREFIX: usize = 4;

/// The elements of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TensorData {
    /// Elements of fixed width, little-endian, row-major.
    Raw(Bytes),
    /// Elements of BYTES, row-major, without length prefixes.
    Elements(Vec<Bytes>),
}

/// A named tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Its name in the model's signature.
    pub name: String,
    /// Its parameters.
    pub parameters: Parameters,
    datatype: Datatype,
    shape: Vec<i64>,
    data: TensorData,
}

impl Tensor {
    /// A tensor whose data agrees with datatype and shape.
    ///
    /// # Errors
    /// The first [`Problem`]: a bad shape, or data of another length, count or kind.
    pub fn new(
        name: impl Into<String>,
        datatype: Datatype,
        shape: Vec<i64>,
        data: TensorData,
        parameters: Parameters,
    ) -> Result<Self, Problem> {
        let wants = element_count(&shape)?;
        match (&data, datatype.width()) {
            (TensorData::Raw(raw), Some(width)) => {
                let bytes = wants.checked_mul(width).ok_or_else(|| Problem::ShapeOverflow { shape: shape.clone() })?;
                if raw.len() != bytes {
                    return Err(Problem::RawLength { shape, datatype, wants: bytes, has: raw.len() });
                }
                if datatype == Datatype::Bool
                    && let Some(index) = raw.iter().position(|byte| *byte > 1)
                {
                    let value = raw.get(index).map(ToString::to_string).unwrap_or_default();
                    return Err(Problem::Element { index, value, datatype });
                }
            }
            (TensorData::Elements(elements), None) => {
                if elements.len() != wants {
                    return Err(Problem::ElementCount { shape, wants, has: elements.len() });
                }
            }
            (TensorData::Elements(elements), Some(_)) => {
                return Err(Problem::RawLength { shape, datatype, wants, has: elements.len() });
            }
            (TensorData::Raw(raw), None) => {
                let elements = split_elements(raw, wants, &shape)?;
                return Ok(Self {
                    name: name.into(),
                    parameters,
                    datatype,
                    shape,
                    data: TensorData::Elements(elements),
                });
            }
        }
        Ok(Self { name: name.into(), parameters, datatype, shape, data })
    }

    /// What its elements are.
    #[must_use]
    pub fn datatype(&self) -> Datatype {
        self.datatype
    }

    /// Its dimensions; no dimension is negative.
    #[must_use]
    pub fn shape(&self) -> &[i64] {
        &self.shape
    }

    /// Its elements.
    #[must_use]
    pub fn data(&self) -> &TensorData {
        &self.data
    }

    /// Shape and elements, without the rest.
    #[must_use]
    pub fn into_shape_and_data(self) -> (Vec<i64>, TensorData) {
        (self.shape, self.data)
    }

    /// The number of its elements.
    #[must_use]
    pub fn element_count(&self) -> usize {
        match (&self.data, self.datatype.width()) {
            (TensorData::Raw(raw), Some(width)) => raw.len() / width,
            (TensorData::Raw(raw), None) => raw.len(),
            (TensorData::Elements(elements), _) => elements.len(),
        }
    }

    /// Its elements as raw contents: little-endian, elements of BYTES with their length in front. Copies only BYTES.
    #[must_use]
    pub fn raw(&self) -> Bytes {
        match &self.data {
            TensorData::Raw(raw) => raw.clone(),
            TensorData::Elements(elements) => join_elements(elements),
        }
    }
}

/// The number of elements a shape asks for.
pub(crate) fn element_count(shape: &[i64]) -> Result<usize, Problem> {
    if shape.len() > MAX_RANK {
        return Err(Problem::RankTooHigh { rank: shape.len() });
    }
    if let Some(dimension) = shape.iter().find(|dimension| **dimension < 0) {
        return Err(Problem::NegativeDimension { shape: shape.to_vec(), dimension: *dimension });
    }
    if shape.contains(&0) {
        return Ok(0);
    }
    shape
        .iter()
        .try_fold(1_usize, |product, dimension| product.checked_mul(usize::try_from(*dimension).ok()?))
        .filter(|count| *count <= isize::MAX as usize)
        .ok_or_else(|| Problem::ShapeOverflow { shape: shape.to_vec() })
}

/// Cuts raw BYTES contents into their elements, which share the memory of `raw`.
fn split_elements(raw: &Bytes, wants: usize, shape: &[i64]) -> Result<Vec<Bytes>, Problem> {
    // The length of the raw data bounds the elements there can be, whatever the shape says.
    let mut elements = Vec::with_capacity(wants.min(raw.len() / LENGTH_PREFIX));
    let mut rest = raw.clone();
    while rest.has_remaining() {
        let index = elements.len();
        if index == wants {
            return Err(Problem::ElementCount { shape: shape.to_vec(), wants, has: index + 1 });
        }
        if rest.len() < LENGTH_PREFIX {
            return Err(Problem::RawElement { index, need: LENGTH_PREFIX, left: rest.len() });
        }
        let length = rest.get_u32_le() as usize;
        if rest.len() < length {
            let need = length.saturating_add(LENGTH_PREFIX);
            return Err(Problem::RawElement { index, need, left: rest.len() + LENGTH_PREFIX });
        }
        elements.push(rest.split_to(length));
    }
    if elements.len() == wants {
        Ok(elements)
    } else {
        Err(Problem::ElementCount { shape: shape.to_vec(), wants, has: elements.len() })
    }
}

fn join_elements(elements: &[Bytes]) -> Bytes {
    let length = elements.iter().map(|element| element.len() + LENGTH_PREFIX).sum();
    let mut raw = BytesMut::with_capacity(length);
    for element in elements {
        // A message of 4 GiB passes no message limit, so no element has a length beyond u32.
        raw.put_u32_le(u32::try_from(element.len()).unwrap_or(u32::MAX));
        raw.extend_from_slice(element);
    }
    raw.freeze()
}
