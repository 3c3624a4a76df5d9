//! What the scheduler is told for each manifest, compared with files. After a wished change: `UPDATE=1`, and read the
//! difference.

use std::fmt::Write as _;
use std::path::Path;

use crds::{Manifest, parse};

fn check(name: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let text = std::fs::read_to_string(folder.join(format!("{name}.yaml"))).expect("the manifest");
    let mut wire = String::new();
    for manifest in parse(&text, name).expect("a good manifest") {
        match manifest {
            Manifest::Model(model) => writeln!(wire, "{:#?}", model.to_wire().expect("the invariant of parse")),
            Manifest::Experiment(experiment) => {
                writeln!(wire, "{:#?}", experiment.to_wire().expect("the invariant of parse"))
            }
            Manifest::Pipeline(pipeline) => {
                writeln!(wire, "{:#?}", pipeline.to_wire().expect("the invariant of parse"))
            }
            Manifest::Server(server) => writeln!(wire, "{:#?}", server.to_wire().expect("the invariant of parse")),
        }
        .expect("a string takes any text");
    }
    let golden = folder.join(format!("{name}.wire"));
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&golden, &wire).expect("write the golden file");
    }
    assert_eq!(std::fs::read_to_string(&golden).expect("the golden file"), wire, "run with UPDATE=1 if it is right");
}

#[test]
fn a_small_model_has_all_its_defaults() {
    check("model-small");
}

#[test]
fn every_field_with_an_effect_is_sent() {
    check("model-full");
}

#[test]
fn explainers_prompts_and_sleeping_models_are_sent_as_such() {
    check("models-special");
}

#[test]
fn a_server_tells_its_size() {
    check("servers");
}

#[test]
fn an_experiment_tells_who_answers_and_what_its_candidates_are() {
    check("experiments");
}

#[test]
fn pipelines_of_every_shape_are_sent_as_they_are_written() {
    check("pipelines");
}

#[test]
fn a_spec_that_is_written_and_read_again_is_the_same() {
    for name in ["model-full", "servers", "experiments", "pipelines"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let text = std::fs::read_to_string(folder.join(format!("{name}.yaml"))).expect("the manifest");
        for manifest in parse(&text, name).expect("a good manifest") {
            let (metadata, spec) = match &manifest {
                Manifest::Model(model) => (serde_json::to_value(&model.metadata), serde_json::to_value(&model.spec)),
                Manifest::Experiment(experiment) => {
                    (serde_json::to_value(&experiment.metadata), serde_json::to_value(&experiment.spec))
                }
                Manifest::Pipeline(pipeline) => {
                    (serde_json::to_value(&pipeline.metadata), serde_json::to_value(&pipeline.spec))
                }
                Manifest::Server(server) => {
                    (serde_json::to_value(&server.metadata), serde_json::to_value(&server.spec))
                }
            };
            let again = serde_json::json!({
                "apiVersion": crds::API_VERSION,
                "kind": manifest.kind(),
                "metadata": metadata.expect("plain values"),
                "spec": spec.expect("plain values"),
            });
            assert_eq!(parse(&again.to_string(), name), Ok(vec![manifest]));
        }
    }
}
