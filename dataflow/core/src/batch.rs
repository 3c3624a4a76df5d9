//! Several requests as one call of a model, and its answer as several answers. Rows are the first dimension.
//!
//! Members stay what they are: whoever asked with two rows gets two rows (`spec/data-plane.md` §6.6 and rows 118, 119).

use oip::{InferRequest, InferResponse, Parameters, Tensor, TensorData};

/// What requests must have in common to be called together.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchKey {
    tensors: Vec<(String, &'static str, Vec<i64>, Parameters)>,
    parameters: Parameters,
}

/// Why an answer cannot be shared out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("output {name} has {found} rows for a batch of {rows}, so nobody can be given their own")]
pub struct Unsplittable {
    name: String,
    found: i64,
    rows: i64,
}

impl BatchKey {
    /// The key of a request, and how many rows it has; `None` if it has no rows that others could be put beside.
    #[must_use]
    pub fn of(request: &InferRequest) -> Option<(Self, i64)> {
        let rows = *request.inputs.first()?.shape().first()?;
        let is_even = request.inputs.iter().all(|tensor| tensor.shape().first() == Some(&rows));
        let tensors = request.inputs.iter().map(|tensor| {
            let rest = tensor.shape().iter().skip(1).copied().collect();
            (tensor.name.clone(), tensor.datatype().name(), rest, tensor.parameters.clone())
        });
        let key = Self { tensors: tensors.collect(), parameters: request.parameters.clone() };
        (is_even && rows > 0).then_some((key, rows))
    }
}

/// One request with the rows of all. They must have one key, and there must be one.
#[must_use]
pub fn merge(requests: &[InferRequest]) -> InferRequest {
    let Some(first) = requests.first() else { return InferRequest::default() };
    let inputs = (0..first.inputs.len()).filter_map(|at| {
        let tensors: Vec<&Tensor> = requests.iter().filter_map(|request| request.inputs.get(at)).collect();
        concatenated(&tensors)
    });
    InferRequest { inputs: inputs.collect(), id: String::new(), ..first.clone() }
}

fn concatenated(tensors: &[&Tensor]) -> Option<Tensor> {
    let first = tensors.first()?;
    let mut shape = first.shape().to_vec();
    *shape.first_mut()? = tensors.iter().filter_map(|tensor| tensor.shape().first()).sum();
    let data = match first.data() {
        TensorData::Raw(_) => {
            let all: Vec<u8> = tensors.iter().flat_map(|tensor| tensor.raw()).collect();
            TensorData::Raw(all.into())
        }
        TensorData::Elements(_) => {
            let elements = tensors.iter().filter_map(|tensor| match tensor.data() {
                TensorData::Elements(elements) => Some(elements.clone()),
                TensorData::Raw(_) => None,
            });
            TensorData::Elements(elements.flatten().collect())
        }
    };
    Tensor::new(first.name.clone(), first.datatype(), shape, data, first.parameters.clone()).ok()
}

/// The answers of requests with so many rows each, out of the answer to all of them.
pub fn split(response: &InferResponse, rows: &[i64]) -> Result<Vec<InferResponse>, Unsplittable> {
    let total: i64 = rows.iter().sum();
    let empty = InferResponse { outputs: Vec::new(), ..response.clone() };
    let mut answers = vec![empty; rows.len()];
    for tensor in &response.outputs {
        let found = tensor.shape().first().copied().unwrap_or(0);
        let wrong = || Unsplittable { name: tensor.name.clone(), found, rows: total };
        if found != total || total == 0 {
            return Err(wrong());
        }
        // Whole, because every row is as large as every other.
        let in_row = |length: usize| length / usize::try_from(total).unwrap_or(1);
        let mut from = 0;
        for (answer, rows) in answers.iter_mut().zip(rows) {
            let rows_here = usize::try_from(*rows).map_err(|_| wrong())?;
            let mut shape = tensor.shape().to_vec();
            if let Some(first) = shape.first_mut() {
                *first = *rows;
            }
            let data = match tensor.data() {
                TensorData::Raw(raw) => {
                    let row = in_row(raw.len());
                    TensorData::Raw(raw.slice(from * row..(from + rows_here) * row))
                }
                TensorData::Elements(elements) => {
                    let row = in_row(elements.len());
                    TensorData::Elements(elements[from * row..(from + rows_here) * row].to_vec())
                }
            };
            from += rows_here;
            let part = Tensor::new(tensor.name.clone(), tensor.datatype(), shape, data, tensor.parameters.clone());
            answer.outputs.push(part.map_err(|_| wrong())?);
        }
    }
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oip::Datatype;

    fn request(values: &[u8], id: &str) -> InferRequest {
        let rows = i64::try_from(values.len()).expect("few");
        let number = |name: &str, data: Vec<u8>, width: i64| {
            Tensor::new(name, Datatype::Uint8, vec![rows, width], TensorData::Raw(data.into()), Parameters::new())
                .expect("a tensor")
        };
        let doubled = values.iter().flat_map(|value| [*value, *value + 100]).collect();
        InferRequest {
            id: id.into(),
            inputs: vec![number("a", values.to_vec(), 1), number("b", doubled, 2)],
            ..InferRequest::default()
        }
    }

    #[test]
    fn everybody_gets_their_own_rows() {
        let requests = [request(&[1, 2], "x"), request(&[3], "y"), request(&[4, 5, 6], "z")];
        let keys: Vec<_> = requests.iter().map(|request| BatchKey::of(request).expect("rows")).collect();
        assert!(keys.iter().all(|(key, _)| *key == keys[0].0));
        let all = merge(&requests);
        assert_eq!(all.inputs[0].shape(), [6, 1]);
        assert_eq!(all.inputs[1].shape(), [6, 2]);
        let response = InferResponse { outputs: all.inputs, ..InferResponse::default() };
        let rows: Vec<i64> = keys.iter().map(|(_, rows)| *rows).collect();
        let answers = split(&response, &rows).expect("split");
        for (answer, request) in answers.iter().zip(&requests) {
            assert_eq!(answer.outputs, request.inputs);
        }
        let error = split(&response, &[1, 2]).expect_err("another number of rows").to_string();
        assert!(error.contains("output a has 6 rows for a batch of 3"), "{error}");
    }

    #[test]
    fn other_shapes_names_or_parameters_are_other_batches() {
        let one = BatchKey::of(&request(&[1], "x")).expect("rows").0;
        let mut other = request(&[1], "x");
        other.inputs[1].name = "c".into();
        assert_ne!(BatchKey::of(&other).expect("rows").0, one);
        other.inputs.clear();
        assert_eq!(BatchKey::of(&other), None);
    }
}
