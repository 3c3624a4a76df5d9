//! Rules of single records, on one shard without a log: what a join gives, how long it waits, which headers travel.

use std::sync::Arc;

use bytes::Bytes;
use dataflow_core::{
    Branch, Caller, Emission, Engine, Envelope, Headers, Incoming, Owner, Plan, Root, Slot, Topology, Version, name,
};
use domain::{Combination, End, JoinKind, ModelName, Pipeline, PipelineName, PipelineOutput, Reference, Step};
use domain::{TensorMap, Time, TopicOf, Topics};
use messages::inference::model_infer_request::InferInputTensor;
use messages::inference::{InferTensorContents, ModelInferRequest};
use prost::Message;

const NOW: Time = Time(1_000_000);

fn model(name: &str) -> ModelName {
    ModelName::parse(name).expect("a name")
}

fn pipeline() -> PipelineName {
    PipelineName::parse("p").expect("a name")
}

fn combination(sources: &[&str], join: JoinKind, window_ms: Option<u32>) -> Combination {
    let sources = sources.iter().map(|text| Reference::inside(text, &pipeline()).expect("a reference"));
    Combination { sources: sources.collect(), join, window_ms }
}

/// Steps `a` and `b`, whose outputs are joined for `c`, which answers.
fn joined(join: JoinKind, window_ms: Option<u32>) -> Pipeline {
    let steps = vec![
        Step::new(model("a"), Combination::default()),
        Step::new(model("b"), Combination::default()),
        Step::new(model("c"), combination(&["a.outputs", "b.outputs"], join, window_ms)),
    ];
    let output = PipelineOutput { steps: combination(&["c"], JoinKind::Inner, None), tensor_map: TensorMap::new() };
    Pipeline { output: Some(output), ..Pipeline::new(pipeline(), steps) }
}

struct Bench {
    engine: Engine,
    plan: Plan,
    topics: Topics,
    offset: u64,
}

impl Bench {
    fn new(pipeline: &Pipeline) -> Self {
        let (topics, mut plan) = (Topics::default(), Plan::default());
        let topology = Arc::new(Topology::compile(pipeline, 7));
        plan.set(&pipeline.name, vec![Version { topology, active_since: Some(Time(0)) }]);
        Self { engine: Engine::new(0, topics.clone(), Owner::default()), plan, topics, offset: 0 }
    }

    /// An answer of a step for the one request that there is.
    fn answers(&mut self, step: &str, others: Headers, value: Bytes, now: Time) -> Vec<Emission> {
        let of = TopicOf::Model(model(step), End::Outputs);
        let topic: Arc<str> = self.topics.name(&of).into();
        let envelope = Envelope {
            root: Root(1),
            slot: Slot::of_emission(&pipeline(), step, Root(1), &Branch::default()),
            branch: Branch::default(),
            deadline: None,
            pipeline: Some(pipeline()),
            version: Some(7),
        };
        let headers = envelope.write(others, &topic, 0);
        let (offset, key) = (self.offset, Bytes::from_static(b"0.p.x"));
        self.offset += 1;
        let record = Incoming { topic: &topic, of: &of, incarnation: 0, offset, time: now, key, headers, value };
        self.engine.take(&self.plan, record, now);
        self.engine.emissions()
    }
}

fn tensor(name: &str, contents: Option<f32>) -> InferInputTensor {
    InferInputTensor {
        name: name.into(),
        datatype: "FP32".into(),
        shape: vec![1],
        contents: contents.map(|value| InferTensorContents { fp32_contents: vec![value], ..Default::default() }),
        ..Default::default()
    }
}

/// A response has the fields of a request at the numbers of a response; this is one with raw contents.
fn raw(name: &str, value: f32) -> Bytes {
    let output = messages::inference::model_infer_response::InferOutputTensor {
        name: name.into(),
        datatype: "FP32".into(),
        shape: vec![1],
        ..Default::default()
    };
    let raw = vec![Bytes::copy_from_slice(&value.to_le_bytes())];
    let response = messages::inference::ModelInferResponse {
        outputs: vec![output],
        raw_output_contents: raw,
        ..Default::default()
    };
    response.encode_to_vec().into()
}

fn typed(name: &str, value: f32) -> Bytes {
    let tensor = tensor(name, Some(value));
    let output = messages::inference::model_infer_response::InferOutputTensor {
        name: tensor.name,
        datatype: tensor.datatype,
        shape: tensor.shape,
        contents: tensor.contents,
        ..Default::default()
    };
    messages::inference::ModelInferResponse { outputs: vec![output], ..Default::default() }.encode_to_vec().into()
}

fn all<'a>(headers: &'a Headers, name: &str) -> Vec<&'a [u8]> {
    headers.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_ref()).collect()
}

#[test]
fn raw_and_typed_contents_are_joined_as_raw_ones() {
    let mut bench = Bench::new(&joined(JoinKind::Inner, None));
    assert!(bench.answers("a", Headers::new(), typed("x", 1.5), NOW).is_empty());
    let emission = bench.answers("b", Headers::new(), raw("y", 2.5), NOW).remove(0);
    let request = ModelInferRequest::decode(emission.value).expect("a request");
    assert_eq!(request.inputs, [tensor("x", None), tensor("y", None)]);
    assert_eq!(request.raw_input_contents, [1.5_f32.to_le_bytes().to_vec(), 2.5_f32.to_le_bytes().to_vec()]);
}

#[test]
fn a_window_of_a_step_overrides_the_default_of_a_minute() {
    for (window_ms, waits) in [(None, 60_000), (Some(250), 250)] {
        let mut bench = Bench::new(&joined(JoinKind::Outer, window_ms));
        assert!(bench.answers("a", Headers::new(), raw("x", 1.0), NOW).is_empty());
        assert_eq!(bench.engine.next_timer(), Some(NOW.after(waits)));
        bench.engine.tick(NOW.after(waits - 1));
        assert!(bench.engine.emissions().is_empty(), "{window_ms:?}: too early");
        bench.engine.tick(NOW.after(waits));
        let emission = bench.engine.emissions().remove(0);
        let request = ModelInferRequest::decode(emission.value).expect("a request");
        assert_eq!(request.inputs, [tensor("x", None)], "{window_ms:?}: what there is");
    }
}

#[test]
fn a_record_says_once_whose_it_is_and_nothing_of_drift_detectors() {
    let mut bench = Bench::new(&joined(JoinKind::Inner, None));
    let header = |name: &str, value: &'static str| (name.to_owned(), Bytes::from_static(value.as_bytes()));
    let others = vec![
        header(name::PIPELINE, "other"),
        header(name::VERSION, "99"),
        header("x-seldon-alibi-type", "outlier"),
        header("x-seldon-alibi-method", "m"),
        header("x-kept", "yes"),
        header(name::ROUTE, ":a_1:"),
    ];
    bench.answers("a", others.clone(), raw("x", 1.0), NOW);
    let emission = bench.answers("b", others, raw("y", 1.0), NOW).remove(0);
    assert_eq!(all(&emission.headers, name::PIPELINE), [b"p"]);
    assert_eq!(all(&emission.headers, name::VERSION), [b"7"]);
    assert_eq!(all(&emission.headers, "x-kept"), [b"yes"]);
    assert_eq!(all(&emission.headers, name::ROUTE), [b":a_1:"]);
    assert!(all(&emission.headers, "x-seldon-alibi-type").is_empty());
    assert!(all(&emission.headers, "x-seldon-alibi-method").is_empty());
}

#[test]
fn a_model_gets_the_headers_of_its_record_without_the_routes_that_it_took() {
    let topics = Topics::default();
    let of = TopicOf::Model(model("a"), End::Inputs);
    let topic: Arc<str> = topics.name(&of).into();
    let header = |name: &str| (name.to_owned(), Bytes::from_static(b"v"));
    let headers = vec![header("x-foo"), header(name::ROUTE), header("other"), header(name::PIPELINE)];
    let mut caller = Caller::new(0, topics, Owner::default());
    let (key, value) = (Bytes::new(), raw("x", 1.0));
    let record = Incoming { topic: &topic, of: &of, incarnation: 0, offset: 0, time: NOW, key, headers, value };
    let call = caller.take(record, NOW).expect("a call");
    assert_eq!(call.headers, [header("x-foo")]);
}
