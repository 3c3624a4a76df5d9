//! Parameters of messages and tensors.
//!
//! Not the binary tensor extension's own parameters: those are consumed while a body is read.

use std::collections::BTreeMap;

use messages::inference::{InferParameter, infer_parameter::ParameterChoice};

/// Parameters by name.
pub type Parameters = BTreeMap<String, Parameter>;

/// The value of a parameter.
#[derive(Debug, Clone, PartialEq)]
pub enum Parameter {
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A fraction. Protobuf has no field for it: there it is cut to a whole number.
    Double(f64),
    /// Text.
    String(String),
}

pub(crate) fn from_proto(parameters: BTreeMap<String, InferParameter>) -> Parameters {
    parameters
        .into_iter()
        .filter_map(|(name, parameter)| {
            let value = match parameter.parameter_choice? {
                ParameterChoice::BoolParam(value) => Parameter::Bool(value),
                ParameterChoice::Int64Param(value) => Parameter::Int(value),
                ParameterChoice::StringParam(value) => Parameter::String(value),
            };
            Some((name, value))
        })
        .collect()
}

pub(crate) fn to_proto(parameters: Parameters) -> BTreeMap<String, InferParameter> {
    parameters
        .into_iter()
        .map(|(name, value)| {
            let choice = match value {
                Parameter::Bool(value) => ParameterChoice::BoolParam(value),
                Parameter::Int(value) => ParameterChoice::Int64Param(value),
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "the fraction is cut on purpose, the cast saturates"
                )]
                Parameter::Double(value) => ParameterChoice::Int64Param(value as i64),
                Parameter::String(value) => ParameterChoice::StringParam(value),
            };
            (name, InferParameter { parameter_choice: Some(choice) })
        })
        .collect()
}
