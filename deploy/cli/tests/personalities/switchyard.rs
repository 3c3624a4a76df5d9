//! Called as `switchyard`: the same verbs, in sentences, without a guard.

use crate::well;
use crate::world::World;

#[test]
fn files_of_several_kinds_are_loaded_shown_and_unloaded_in_sentences() {
    let world = World::start();
    assert_eq!(
        well(world.switchyard("load -f all.yaml")),
        "model iris: version 1 accepted\nexperiment split: accepted\nserver onnx: 2 replicas wanted\n"
    );
    let said = well(world.switchyard("status -f all.yaml"));
    for word in ["state     ScheduleFailed", "experiment  split", "active      no", "server    onnx"] {
        assert!(said.contains(word), "{said}");
    }
    let said = well(world.switchyard("status -f all.yaml -o json"));
    assert!(said.lines().all(|line| line.starts_with('{')) && said.lines().count() == 3, "{said}");
    let (code, _, err) = world.switchyard("status -f all.yaml --wait --timeout-secs 1");
    assert!(code == Some(1) && err.contains("model iris: still waiting after 1 s (--timeout-secs)"), "{err}");
    assert_eq!(
        well(world.switchyard("unload -f all.yaml")),
        "experiment split: stopped\nmodel iris: unload accepted\nserver onnx: 0 replicas wanted\n"
    );
    let (code, out, err) = world.switchyard("unload -f iris.yaml");
    assert_eq!(
        (code, out.as_str(), err.as_str()),
        (Some(1), "", "Error: model iris is unloaded already, or about to be\n")
    );
}

#[test]
fn an_experiment_is_started_shown_listed_and_stopped_once() {
    let world = World::start();
    assert_eq!(well(world.switchyard("experiment start -f split.yaml")), "experiment split: accepted\n");
    let said = well(world.switchyard("experiment status split"));
    assert!(
        said.starts_with("experiment  split\nactive      no\n") && said.contains("model other is not known"),
        "{said}"
    );
    let said = well(world.switchyard("experiment list"));
    assert!(said.starts_with("experiment  active  reason\n") && said.contains("\nsplit       false "), "{said}");
    let said = well(world.switchyard("experiment status split -o json"));
    assert!(said.starts_with(r#"{"experimentName":"split","#), "{said}");
    let (code, _, err) = world.switchyard("experiment start -f split.yaml --wait -t 1");
    assert!(code == Some(1) && err.contains("experiment split: still waiting after 1 s"), "{err}");
    assert_eq!(well(world.switchyard("experiment stop split")), "experiment split: stopped\n");
    for (arguments, word) in [
        ("experiment stop split", "experiment split is stopped already"),
        ("experiment stop nosuch", "nosuch is not known"),
        ("experiment status nosuch", "`switchyard experiment list` shows what is"),
        ("experiment start -f iris.yaml", "model iris is no experiment"),
        ("experiment stop a/b", "experiment name \"a/b\" must match"),
    ] {
        let (code, out, err) = world.switchyard(arguments);
        assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
        assert!(err.starts_with("Error: ") && err.contains(word), "{err}");
    }
}
