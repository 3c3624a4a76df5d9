//! How often the bytes of a tensor are copied on their way through the engine and the gateway's core: by what is allocated
//! for a message of 16 MB. One test, because it counts for the whole process.

use std::alloc::System;
use std::sync::Arc;

use bytes::Bytes;
use dataflow_core::{Caller, Engine, Headers, Incoming, Outcome, Owner, Plan, Topology, Version};
use domain::{Combination, End, ModelName, Pipeline, PipelineName, Reference, Step, TensorMap, Time, TopicOf, Topics};
use messages::inference::ModelInferResponse;
use messages::inference::model_infer_response::InferOutputTensor;
use prost::Message;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const SIZE: usize = 16 << 20;
const NOW: Time = Time(1_000);

/// Runs it and gives how many times the size of the message it allocated.
fn copies<T>(run: impl FnOnce() -> T) -> (T, usize) {
    let region = Region::new(ALLOCATOR);
    let result = run();
    let bytes = region.change().bytes_allocated;
    (result, (bytes + SIZE / 2) / SIZE)
}

fn answer() -> Bytes {
    let output = InferOutputTensor {
        name: "x".into(),
        datatype: "UINT8".into(),
        shape: vec![i64::try_from(SIZE).expect("it fits")],
        ..InferOutputTensor::default()
    };
    let raw = vec![Bytes::from(vec![7; SIZE])];
    ModelInferResponse { outputs: vec![output], raw_output_contents: raw, ..Default::default() }.encode_to_vec().into()
}

#[test]
fn a_hop_copies_a_tensor_once_and_a_call_never() {
    let name = PipelineName::parse("p").expect("a name");
    let model = |name: &str| ModelName::parse(name).expect("a name");
    let from = Reference::inside("a.outputs.x", &name).expect("a reference");
    let second = Combination { sources: vec![from.clone()], ..Combination::default() };
    // A new name for the tensor: nothing has to be looked into for that.
    let tensor_map = TensorMap::from([(from, "y".to_owned())]);
    let second = Step { tensor_map, ..Step::new(model("b"), second) };
    let pipeline = Pipeline::new(name.clone(), vec![Step::new(model("a"), Combination::default()), second]);
    let (topics, mut plan) = (Topics::default(), Plan::default());
    plan.set(&name, vec![Version { topology: Arc::new(Topology::compile(&pipeline, 1)), active_since: Some(Time(0)) }]);
    let mut engine = Engine::new(0, topics.clone(), Owner::default());
    let of = TopicOf::Model(model("a"), End::Outputs);
    let topic: Arc<str> = topics.name(&of).into();
    let headers: Headers = vec![("pipeline".to_owned(), Bytes::from_static(b"p"))];
    let (key, value) = (Bytes::new(), answer());
    let record = Incoming { topic: &topic, of: &of, incarnation: 0, offset: 0, time: NOW, key, headers, value };
    let (emission, count) = copies(|| {
        engine.take(&plan, record, NOW);
        engine.emissions().pop()
    });
    let emission = emission.expect("an input of b");
    assert!(emission.value.len() > SIZE);
    assert_eq!(count, 1, "copies between two steps");

    let of = emission.topic;
    let topic: Arc<str> = topics.name(&of).into();
    let mut caller = Caller::new(0, topics, Owner::default());
    let (key, headers, value) = (emission.key, emission.headers, emission.value);
    let record = Incoming { topic: &topic, of: &of, incarnation: 0, offset: 0, time: NOW, key, headers, value };
    let (call, count) = copies(|| caller.take(record, NOW));
    let call = call.expect("a call");
    assert_eq!(count, 0, "copies on the way to a model");
    let answer = answer();
    let (written, count) = copies(|| {
        caller.answered(call.id, Outcome::Answer(answer, Headers::new()));
        caller.emissions().pop()
    });
    assert!(written.is_some());
    assert_eq!(count, 0, "copies on the way back");
}
