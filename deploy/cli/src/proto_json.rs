//! Inference messages as the JSON that protobuf defines for them: what the compatible command line reads and prints in
//! its gRPC mode. The JSON of the Open Inference Protocol, which differs, is `oip`'s; [`request`] takes both.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use bytes::Bytes;
use messages::inference as wire;
use oip::{Contents, InferRequest, InferResponse};
use serde::de::{IgnoredAny, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use wire::infer_parameter::ParameterChoice;
use wire::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};

use crate::output;

/// Why a text is no request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the request cannot be read")]
    Oip(#[from] oip::Error),
    #[error("the request cannot be read as the JSON of a ModelInferRequest")]
    Proto(#[from] serde_json::Error),
}

/// A request for `model`, from either kind of JSON: inputs of the Open Inference Protocol have `data`, those of
/// protobuf's JSON have `contents`.
pub(crate) fn request(body: &Bytes, model: &str) -> Result<wire::ModelInferRequest, Error> {
    #[derive(Deserialize)]
    struct Probe {
        inputs: Vec<Input>,
    }
    #[derive(Deserialize)]
    struct Input {
        data: Option<IgnoredAny>,
    }
    let probe = serde_json::from_slice::<Probe>(body).ok();
    let is_proto =
        probe.is_some_and(|probe| !probe.inputs.is_empty() && probe.inputs.iter().all(|input| input.data.is_none()));
    let mut message = if is_proto {
        serde_json::from_slice::<Request>(body)?.into()
    } else {
        InferRequest::from_json(body, None)?.into_proto(Contents::Raw)
    };
    model.clone_into(&mut message.model_name);
    Ok(message)
}

/// A request on one line.
pub(crate) fn request_text(message: wire::ModelInferRequest) -> String {
    output::as_json(&Request::from(message))
}

/// An answer on one line, raw contents as the typed ones they stand for.
pub(crate) fn response_text(message: wire::ModelInferResponse) -> Result<String, oip::Error> {
    let typed = InferResponse::from_proto(message)?.into_proto(Contents::Typed);
    Ok(output::as_json(&Response {
        model_name: typed.model_name,
        model_version: typed.model_version,
        id: typed.id,
        parameters: read_parameters(typed.parameters),
        outputs: typed
            .outputs
            .into_iter()
            .map(|tensor| Tensor {
                name: tensor.name,
                datatype: tensor.datatype,
                shape: wide(tensor.shape),
                parameters: read_parameters(tensor.parameters),
                contents: tensor.contents.map(Into::into),
            })
            .collect(),
    }))
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A message whose fields may be written in either case, and are printed in camel case.
macro_rules! message {
    ($name:ident { $($(#[$meta:meta])* $field:ident $(($snake:literal))?: $type:ty,)* }) => {
        #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields, default)]
        struct $name {
            $($(#[$meta])* #[serde(skip_serializing_if = "is_default" $(, alias = $snake)?)] $field: $type,)*
        }
    };
}

message!(Request {
    model_name("model_name"): String,
    model_version("model_version"): String,
    id: String,
    parameters: BTreeMap<String, Parameter>,
    inputs: Vec<Tensor>,
    outputs: Vec<Requested>,
    raw_input_contents("raw_input_contents"): Vec<Base64>,
});
message!(Response {
    model_name("model_name"): String,
    model_version("model_version"): String,
    id: String,
    parameters: BTreeMap<String, Parameter>,
    outputs: Vec<Tensor>,
});
message!(Tensor {
    name: String,
    datatype: String,
    shape: Vec<Wide<i64>>,
    parameters: BTreeMap<String, Parameter>,
    contents: Option<Values>,
});
message!(Requested {
    name: String,
    parameters: BTreeMap<String, Parameter>,
});
message!(Parameter {
    bool_param("bool_param"): Option<bool>,
    int64_param("int64_param"): Option<Wide<i64>>,
    string_param("string_param"): Option<String>,
});
message!(Values {
    bool_contents("bool_contents"): Vec<bool>,
    int_contents("int_contents"): Vec<Narrow<i32>>,
    int64_contents("int64_contents"): Vec<Wide<i64>>,
    uint_contents("uint_contents"): Vec<Narrow<u32>>,
    uint64_contents("uint64_contents"): Vec<Wide<u64>>,
    fp32_contents("fp32_contents"): Vec<Float<f32>>,
    fp64_contents("fp64_contents"): Vec<Float<f64>>,
    bytes_contents("bytes_contents"): Vec<Base64>,
});

/// A whole number of 64 bits: printed as text, read from both.
#[derive(Debug, Default, PartialEq)]
struct Wide<T>(T);
/// A whole number of 32 bits: printed as a number, read from both.
#[derive(Debug, Default, PartialEq)]
struct Narrow<T>(T);
/// A number with a fraction; JSON has no number for some.
#[derive(Debug, Default, PartialEq)]
struct Float<T>(T);
/// Any bytes.
#[derive(Debug, Default, PartialEq)]
struct Base64(Vec<u8>);

impl<T: fmt::Display> Serialize for Wide<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<T: Serialize> Serialize for Narrow<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<T: Serialize + Copy + Into<f64>> Serialize for Float<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let value: f64 = self.0.into();
        match value {
            value if value.is_nan() => serializer.serialize_str("NaN"),
            f64::INFINITY => serializer.serialize_str("Infinity"),
            f64::NEG_INFINITY => serializer.serialize_str("-Infinity"),
            _ => self.0.serialize(serializer),
        }
    }
}

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

/// A number as its digits, whether they stand in quotes or not.
struct Digits;

impl Visitor<'_> for Digits {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, in quotes or not")
    }

    fn visit_str<E>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_i64<E>(self, value: i64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_u64<E>(self, value: u64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_f64<E>(self, value: f64) -> Result<String, E> {
        Ok(value.to_string())
    }
}

macro_rules! read_digits {
    ($($name:ident<$type:ty>,)*) => {
        $(impl<'de> Deserialize<'de> for $name<$type> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let digits = deserializer.deserialize_any(Digits)?;
                let wrong = |_| serde::de::Error::custom(format_args!("{digits:?} is no {}", stringify!($type)));
                digits.parse().map($name).map_err(wrong)
            }
        })*
    };
}

read_digits!(Wide<i64>, Wide<u64>, Narrow<i32>, Narrow<u32>, Float<f32>, Float<f64>,);

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(&text).or_else(|_| URL_SAFE.decode(&text));
        bytes.map(Base64).map_err(|error| serde::de::Error::custom(format_args!("no base64: {error}")))
    }
}

fn wide<T>(values: Vec<T>) -> Vec<Wide<T>> {
    values.into_iter().map(Wide).collect()
}

fn read_parameters(parameters: BTreeMap<String, wire::InferParameter>) -> BTreeMap<String, Parameter> {
    let read = |parameter: wire::InferParameter| match parameter.parameter_choice {
        Some(ParameterChoice::BoolParam(value)) => Parameter { bool_param: Some(value), ..Parameter::default() },
        Some(ParameterChoice::Int64Param(value)) => {
            Parameter { int64_param: Some(Wide(value)), ..Parameter::default() }
        }
        Some(ParameterChoice::StringParam(value)) => Parameter { string_param: Some(value), ..Parameter::default() },
        None => Parameter::default(),
    };
    parameters.into_iter().map(|(name, parameter)| (name, read(parameter))).collect()
}

fn to_parameters(parameters: BTreeMap<String, Parameter>) -> BTreeMap<String, wire::InferParameter> {
    let write = |parameter: Parameter| {
        let text = parameter.string_param.map(ParameterChoice::StringParam);
        let number = parameter.int64_param.map(|value| ParameterChoice::Int64Param(value.0));
        wire::InferParameter {
            parameter_choice: text.or(number).or(parameter.bool_param.map(ParameterChoice::BoolParam)),
        }
    };
    parameters.into_iter().map(|(name, parameter)| (name, write(parameter))).collect()
}

impl From<Request> for wire::ModelInferRequest {
    fn from(request: Request) -> Self {
        wire::ModelInferRequest {
            model_name: request.model_name,
            model_version: request.model_version,
            id: request.id,
            parameters: to_parameters(request.parameters),
            inputs: request
                .inputs
                .into_iter()
                .map(|tensor| InferInputTensor {
                    name: tensor.name,
                    datatype: tensor.datatype,
                    shape: tensor.shape.into_iter().map(|length| length.0).collect(),
                    parameters: to_parameters(tensor.parameters),
                    contents: tensor.contents.map(Into::into),
                })
                .collect(),
            outputs: request
                .outputs
                .into_iter()
                .map(|output| InferRequestedOutputTensor {
                    name: output.name,
                    parameters: to_parameters(output.parameters),
                })
                .collect(),
            raw_input_contents: request.raw_input_contents.into_iter().map(|bytes| bytes.0.into()).collect(),
        }
    }
}

impl From<wire::ModelInferRequest> for Request {
    fn from(message: wire::ModelInferRequest) -> Self {
        Request {
            model_name: message.model_name,
            model_version: message.model_version,
            id: message.id,
            parameters: read_parameters(message.parameters),
            inputs: message
                .inputs
                .into_iter()
                .map(|tensor| Tensor {
                    name: tensor.name,
                    datatype: tensor.datatype,
                    shape: wide(tensor.shape),
                    parameters: read_parameters(tensor.parameters),
                    contents: tensor.contents.map(Into::into),
                })
                .collect(),
            outputs: message
                .outputs
                .into_iter()
                .map(|output| Requested { name: output.name, parameters: read_parameters(output.parameters) })
                .collect(),
            raw_input_contents: message.raw_input_contents.into_iter().map(|bytes| Base64(bytes.to_vec())).collect(),
        }
    }
}

impl From<Values> for wire::InferTensorContents {
    fn from(values: Values) -> Self {
        wire::InferTensorContents {
            bool_contents: values.bool_contents,
            int_contents: values.int_contents.into_iter().map(|value| value.0).collect(),
            int64_contents: values.int64_contents.into_iter().map(|value| value.0).collect(),
            uint_contents: values.uint_contents.into_iter().map(|value| value.0).collect(),
            uint64_contents: values.uint64_contents.into_iter().map(|value| value.0).collect(),
            fp32_contents: values.fp32_contents.into_iter().map(|value| value.0).collect(),
            fp64_contents: values.fp64_contents.into_iter().map(|value| value.0).collect(),
            bytes_contents: values.bytes_contents.into_iter().map(|value| value.0.into()).collect(),
        }
    }
}

impl From<wire::InferTensorContents> for Values {
    fn from(contents: wire::InferTensorContents) -> Self {
        Values {
            bool_contents: contents.bool_contents,
            int_contents: contents.int_contents.into_iter().map(Narrow).collect(),
            int64_contents: wide(contents.int64_contents),
            uint_contents: contents.uint_contents.into_iter().map(Narrow).collect(),
            uint64_contents: wide(contents.uint64_contents),
            fp32_contents: contents.fp32_contents.into_iter().map(Float).collect(),
            fp64_contents: contents.fp64_contents.into_iter().map(Float).collect(),
            bytes_contents: contents.bytes_contents.into_iter().map(|bytes| Base64(bytes.to_vec())).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use messages::inference as wire;
    use wire::model_infer_response::InferOutputTensor;

    use super::{request, request_text, response_text};

    #[test]
    fn both_kinds_of_json_are_requests() {
        let oip = r#"{"inputs":[{"name":"X","datatype":"FP32","shape":[1,2],"data":[1.5,2]}]}"#;
        let message = request(&Bytes::from(oip), "iris").expect("a request");
        assert_eq!((message.model_name.as_str(), message.raw_input_contents.len()), ("iris", 1));

        let full = concat!(
            r#"{"modelName":"iris","modelVersion":"1","id":"i","parameters":{"a":{"boolParam":true},"b":{"int64Param":"-7"},"c":{"stringParam":"t"}},"#,
            r#""inputs":[{"name":"X","datatype":"FP32","shape":["1","2"],"contents":{"boolContents":[true],"intContents":[-1],"int64Contents":["-2"],"#,
            r#""uintContents":[3],"uint64Contents":["18446744073709551615"],"fp32Contents":[1.5,"NaN","-Infinity"],"fp64Contents":[0.1,"Infinity"],"bytesContents":["aGk="]}}],"#,
            r#""outputs":[{"name":"Y"}],"rawInputContents":["AAE="]}"#
        );
        let message = request(&Bytes::from(full), "iris").expect("a request");
        assert_eq!(request_text(message.clone()), full);
        let snake = full.replace("modelName", "model_name").replace("modelVersion", "model_version");
        let snake =
            snake.replace("Contents", "_contents").replace("rawInput_", "raw_input_").replace("Param\"", "_param\"");
        let snake = snake.replace(r#"["-2"]"#, "[-2]").replace(r#"["1","2"]"#, "[1,2]").replace("[3]", r#"["3"]"#);
        assert_ne!(snake, full);
        // Not-a-number equals nothing, so texts are compared.
        assert_eq!(request_text(request(&Bytes::from(snake), "iris").expect("a request")), full);
    }

    #[test]
    fn what_is_no_request_says_why() {
        let proto = |contents: &str| format!(r#"{{"inputs":[{{"name":"X","contents":{contents}}}]}}"#);
        for (text, expected) in [
            ("{", "JSON"),
            ("{}", "inputs"),
            (r#"{"inputs":[{"name":"X","dat":[1]}]}"#, "unknown field `dat`"),
            (&proto(r#"{"int_contents":[2147483648]}"#), "\"2147483648\" is no i32"),
            (&proto(r#"{"uint_contents":["x"]}"#), "\"x\" is no u32"),
            (&proto(r#"{"int64_contents":[1.5]}"#), "\"1.5\" is no i64"),
            (&proto(r#"{"bytes_contents":["*"]}"#), "no base64"),
        ] {
            let error = request(&Bytes::from(text.to_owned()), "iris").expect_err(text);
            let said = runtime::chain(&error);
            assert!(said.contains(expected), "{text}: {said}");
        }
    }

    #[test]
    fn raw_contents_of_an_answer_are_printed_as_values() {
        let output = |name: &str, datatype: &str, shape| InferOutputTensor {
            name: name.to_owned(),
            datatype: datatype.to_owned(),
            shape,
            ..Default::default()
        };
        let message = wire::ModelInferResponse {
            model_name: "iris_1".to_owned(),
            model_version: "1".to_owned(),
            outputs: vec![output("label", "INT64", vec![1, 1]), output("text", "BYTES", vec![1])],
            raw_output_contents: vec![2_i64.to_le_bytes().to_vec().into(), Bytes::from_static(b"\x02\0\0\0hi")],
            ..Default::default()
        };
        assert_eq!(
            response_text(message).expect("an answer"),
            concat!(
                r#"{"modelName":"iris_1","modelVersion":"1","outputs":[{"name":"label","datatype":"INT64","shape":["1","1"],"#,
                r#""contents":{"int64Contents":["2"]}},{"name":"text","datatype":"BYTES","shape":["1"],"contents":{"bytesContents":["aGk="]}}]}"#
            )
        );
    }
}
