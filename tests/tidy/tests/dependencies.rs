//! The crate graph is the architecture: who may depend on whom, what the pure crates may not reach, and where heavy
//! or foreign crates live. A new edge is a decision (ARCHITECTURE.md), so it is written here by hand.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, PackageId};

/// Normal dependencies of each crate on crates of this workspace.
const EDGES: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("messages", &[]),
    ("xds", &[]),
    ("runtime", &[]),
    ("oip", &["messages"]),
    ("api", &["domain", "messages"]),
    ("scheduler-core", &["domain"]),
    ("topic-log", &["domain"]),
    ("dataflow-core", &["domain", "messages", "oip"]),
    ("dataflow", &["dataflow-core", "domain", "runtime", "topic-log", "worker"]),
    ("model-gateway", &["dataflow-core", "domain", "messages", "oip", "runtime", "topic-log", "worker"]),
    ("pipeline-gateway", &["api", "dataflow-core", "domain", "messages", "oip", "runtime", "topic-log", "worker"]),
    ("worker", &["api", "dataflow-core", "domain", "messages", "runtime", "topic-log"]),
    ("crds", &["domain", "messages"]),
    ("envoy", &["runtime"]),
    ("scheduler", &["api", "domain", "messages", "runtime", "scheduler-core", "xds"]),
    ("agent", &["api", "domain", "messages", "oip", "runtime"]),
    ("onnx-server", &["api", "domain", "messages", "oip", "runtime"]),
    (
        "switchyard",
        &[
            "agent",
            "api",
            "crds",
            "dataflow",
            "domain",
            "envoy",
            "messages",
            "model-gateway",
            "oip",
            "onnx-server",
            "pipeline-gateway",
            "runtime",
            "scheduler",
            "topic-log",
            "worker",
            "xds",
        ],
    ),
];

/// Crates that do no I/O and know no time and no chance; not through others either.
const PURE: &[&str] = &["domain", "scheduler-core", "oip", "messages", "dataflow-core"];

/// What a pure crate may not reach.
const IMPURE: &[&str] =
    &["tokio", "tonic", "hyper", "mio", "rand", "getrandom", "socket2", "chrono", "time", "rustix", "heed"];

/// Heavy or foreign crates, and the only crates of ours that may name them.
const HOMES: &[(&str, &[&str])] = &[
    ("envoy-types", &["xds", "scheduler"]),
    ("heed", &["scheduler", "topic-log"]),
    ("ort", &["onnx-server"]),
    ("axum", &["onnx-server", "pipeline-gateway"]),
    ("clap", &["switchyard"]),
];

fn metadata() -> Metadata {
    MetadataCommand::new().exec().expect("cargo metadata runs in this workspace")
}

/// Names of the normal dependencies of a package, as written in its manifest.
fn normal(metadata: &Metadata, package: &PackageId) -> BTreeSet<String> {
    let dependencies = metadata[package].dependencies.iter();
    dependencies.filter(|d| d.kind == DependencyKind::Normal).map(|d| d.name.to_string()).collect()
}

fn ours(metadata: &Metadata) -> BTreeMap<String, PackageId> {
    let tests = metadata.workspace_root.join("tests");
    let packages = metadata.workspace_packages().into_iter();
    packages.filter(|p| !p.manifest_path.starts_with(&tests)).map(|p| (p.name.to_string(), p.id.clone())).collect()
}

#[test]
fn crates_depend_on_each_other_as_the_plan_says() {
    let metadata = metadata();
    let ours = ours(&metadata);
    let planned: BTreeMap<&str, BTreeSet<&str>> =
        EDGES.iter().map(|(name, edges)| (*name, edges.iter().copied().collect())).collect();
    assert_eq!(
        ours.keys().map(String::as_str).collect::<BTreeSet<_>>(),
        planned.keys().copied().collect::<BTreeSet<_>>(),
        "a crate is missing from the plan, or from the workspace"
    );
    for (name, package) in &ours {
        let actual: BTreeSet<String> =
            normal(&metadata, package).into_iter().filter(|dependency| ours.contains_key(dependency)).collect();
        let allowed = &planned[name.as_str()];
        let extra: Vec<&String> = actual.iter().filter(|dependency| !allowed.contains(dependency.as_str())).collect();
        assert!(extra.is_empty(), "{name} may not depend on {extra:?}; see ARCHITECTURE.md before you add an edge");
    }
}

#[test]
fn pure_crates_reach_no_clock_no_socket_and_no_chance() {
    let metadata = metadata();
    let resolve = metadata.resolve.as_ref().expect("a resolved graph");
    let nodes: BTreeMap<&PackageId, Vec<&PackageId>> = resolve
        .nodes
        .iter()
        .map(|node| {
            let normal =
                node.deps.iter().filter(|d| d.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal));
            (&node.id, normal.map(|dependency| &dependency.pkg).collect())
        })
        .collect();
    for (name, package) in ours(&metadata).iter().filter(|(name, _)| PURE.contains(&name.as_str())) {
        let mut reached = BTreeSet::new();
        let mut queue = vec![package];
        while let Some(next) = queue.pop() {
            // Macros run in the compiler, not in the crate.
            let is_macro = metadata[next].targets.iter().any(|target| target.is_proc_macro());
            if !is_macro && reached.insert(next) {
                queue.extend(nodes.get(next).into_iter().flatten().copied());
            }
        }
        let bad: Vec<&str> =
            reached.iter().map(|id| metadata[*id].name.as_str()).filter(|name| IMPURE.contains(name)).collect();
        assert!(bad.is_empty(), "{name} reaches {bad:?}");
    }
}

#[test]
fn heavy_crates_have_one_home() {
    let metadata = metadata();
    for (heavy, homes) in HOMES {
        for (name, package) in &ours(&metadata) {
            let names_it = normal(&metadata, package).contains(*heavy);
            assert!(!names_it || homes.contains(&name.as_str()), "{heavy} belongs to {homes:?}, not to {name}");
        }
    }
}

#[test]
fn versions_are_declared_once() {
    let metadata = metadata();
    for (name, package) in &ours(&metadata) {
        let manifest = std::fs::read_to_string(&metadata[package].manifest_path).expect("a readable manifest");
        let mut in_dependencies = false;
        for line in manifest.lines() {
            if line.starts_with('[') {
                in_dependencies = line.ends_with("dependencies]");
            } else if in_dependencies && line.contains('=') {
                assert!(line.contains("workspace = true"), "{name}: {line} is not inherited");
            }
        }
    }
}
