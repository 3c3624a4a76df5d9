//! Every way in which a manifest can be wrong, and what its writer reads.

use crds::parse;

const HEAD: &str = "apiVersion: mlops.seldon.io/v1alpha1\nkind: Model\nmetadata: {name: iris}\nspec:\n";

/// What is said about `text`, one line for each violation.
fn said(text: &str) -> Vec<String> {
    let violations = parse(text, "x.yaml").expect_err(text);
    violations.iter().map(ToString::to_string).collect()
}

/// A model with these lines in its spec; the first of them is line 5.
fn spec(lines: &str) -> Vec<String> {
    said(&format!("{HEAD}{lines}\n"))
}

#[test]
fn an_unknown_field_is_named_with_its_place_and_what_was_meant() {
    assert_eq!(
        spec("  storgeUri: /a\n  memory: 1Ki"),
        [
            r#"x.yaml:5: spec.storgeUri: unknown field "storgeUri", did you mean "storageUri"?"#,
            r#"x.yaml:4: spec: required field "storageUri" is missing"#,
        ]
    );
    assert_eq!(
        spec("  storageUri: /a\n  parameters:\n    - {name: a, value: b}\n    - name: c\n      valeu: d"),
        [
            r#"x.yaml:9: spec.parameters[1].valeu: unknown field "valeu", did you mean "value"?"#,
            r#"x.yaml:8: spec.parameters[1]: required field "value" is missing"#,
        ]
    );
    let text = format!("{HEAD}  storageUri: /a\nreplicas: 2\n");
    assert_eq!(said(&text), [r#"x.yaml:6: replicas: unknown field "replicas""#]);
    let text = text.replace("replicas: 2", "").replace("{name: iris}", "{name: iris, lables: {}}");
    assert_eq!(said(&text), [r#"x.yaml:3: metadata.lables: unknown field "lables", did you mean "labels"?"#]);
}

#[test]
fn all_violations_of_all_documents_are_told_with_their_lines() {
    let second = "apiVersion: v1\nkind: Modle\nmetadata: {name: Bad.Name}\nspec: {}\n";
    let third = "kind: Server\nmetadata: {name: Bad.Name}\nspec:\n  serverConfig: 7\n  replicas: 1\n  minReplicas: 2\n";
    let text = format!("{HEAD}  storageUri: ''\n---\n{second}---\nkey: [broken\n---\n{third}");
    assert_eq!(
        said(&text),
        [
            r#"x.yaml:5: spec.storageUri: must not be empty"#,
            r#"x.yaml:8: kind: unknown kind "Modle", did you mean "Model"?"#,
            r#"x.yaml:7: apiVersion: must be "mlops.seldon.io/v1alpha1", but it is "v1""#,
            r#"x.yaml:13: cannot be read as YAML: did not find expected ',' or ']'"#,
            r#"x.yaml:17: spec.serverConfig: must be text (put it in quotes when it looks like a number), but it is a number"#,
            r#"x.yaml:14: required field "apiVersion" is missing"#,
        ]
    );
}

#[test]
fn names_follow_the_rule() {
    for (name, reason) in [
        ("Iris", "not a lower-case letter, a digit or a hyphen"),
        ("iris.v1", "not a lower-case letter"),
        ("iris_v1", "not a lower-case letter"),
        ("-iris", "starts or ends with a hyphen"),
        ("\"\"", "it is empty"),
        (&"a".repeat(300), "it is too long"),
    ] {
        for kind in ["Model", "Server"] {
            let spec = if kind == "Model" { "storageUri: /a" } else { "serverConfig: a" };
            let text = format!(
                "apiVersion: mlops.seldon.io/v1alpha1\nkind: {kind}\nmetadata:\n  name: {name}\nspec: {{{spec}}}\n"
            );
            let said = said(&text);
            assert_eq!(said.len(), 1, "{said:?}");
            assert!(said[0].starts_with("x.yaml:4: metadata.name: ") && said[0].contains(reason), "{said:?}");
        }
    }
}

#[test]
fn replica_numbers_that_contradict_each_other_or_are_no_counts_are_refused() {
    for (lines, expected) in [
        (
            "replicas: 1, minReplicas: 2",
            "spec.replicas: scaling spec is invalid: replicas (1) is less than minReplicas (2)",
        ),
        (
            "replicas: 3, maxReplicas: 2",
            "spec.replicas: scaling spec is invalid: replicas (3) is more than maxReplicas (2)",
        ),
        (
            "minReplicas: 3, maxReplicas: 2",
            "spec.minReplicas: scaling spec is invalid: minReplicas (3) is more than maxReplicas (2)",
        ),
        ("replicas: -1", "spec.replicas: must be between 0 and 2147483647, but it is -1"),
        ("replicas: 2147483648", "spec.replicas: must be between 0 and 2147483647, but it is 2147483648"),
        ("replicas: 1.5", "spec.replicas: must be a whole number, but it is a number with a fraction"),
        ("replicas: two", "spec.replicas: must be a whole number, but it is text"),
        ("artifactVersion: -4", "spec.artifactVersion: must be between 0 and 2147483647, but it is -4"),
    ] {
        let text = HEAD.replace("spec:\n", &format!("spec: {{storageUri: /a, {lines}}}\n"));
        assert_eq!(said(&text), [format!("x.yaml:4: {expected}")]);
    }
}

#[test]
fn other_fields_must_make_sense() {
    for (lines, expected) in [
        ("memory: lots", r#"spec.memory: "lots" is no amount of memory"#),
        ("memory: 100m", "it is not a whole number of bytes"),
        ("memory: -1", "it is negative"),
        ("memory: [1]", "spec.memory: must be a number or text, but it is a list"),
        ("explainer: {type: a}, llm: {}", "spec.llm: explainer and llm exclude each other"),
        ("requirements: sklearn", "spec.requirements: must be a list, but it is text"),
        ("requirements: [1]", "spec.requirements[0]: must be text"),
        ("preloaded: 'yes'", "spec.preloaded: must be true or false, but it is text"),
        ("logger: true", "spec.logger: must be a mapping, but it is true or false"),
        ("parameters: [{name: a}]", r#"spec.parameters[0]: required field "value" is missing"#),
    ] {
        let said = said(&HEAD.replace("spec:\n", &format!("spec: {{storageUri: /a, {lines}}}\n")));
        assert!(said.len() == 1 && said[0].contains(expected), "{lines}: {said:?}");
    }
}

#[test]
fn kinds_of_later_versions_are_recognised() {
    for kind in ["ServerConfig", "SeldonRuntime"] {
        let text = HEAD.replace("Model", kind);
        assert_eq!(
            said(&text),
            [format!(
                "x.yaml:2: kind: kind {kind} is not in this version yet: use Model, Server, Pipeline or Experiment"
            )]
        );
    }
}

#[test]
fn pipelines_that_cannot_be_are_refused_at_the_field_to_change() {
    let head = HEAD.replace("Model", "Pipeline");
    for (spec, expected) in [
        ("{}", r#"x.yaml:4: spec: required field "steps" is missing"#),
        ("{steps: []}", "x.yaml:4: spec.steps: steps: at least one is needed"),
        (
            "{steps: [{name: a, inptus: [b]}]}",
            r#"x.yaml:4: spec.steps[0].inptus: unknown field "inptus", did you mean "inputs"?"#,
        ),
        ("{steps: [{name: a_b}]}", r#"x.yaml:4: spec.steps[0].name: model name "a_b" must match"#),
        ("{steps: [{name: iris}]}", "x.yaml:4: spec.steps: steps: iris has the name of the pipeline"),
        ("{steps: [{name: a}, {name: a}]}", "x.yaml:4: spec.steps: steps: a is there more than once"),
        ("{steps: [{name: a, inputs: ['']}]}", r#"x.yaml:4: spec.steps[0].inputs[0]: "" is no reference: it is blank"#),
        ("{steps: [{name: a, inputs: [a.foo]}]}", r#"x.yaml:4: spec.steps[0].inputs[0]: "a.foo" is no reference"#),
        (
            "{steps: [{name: a}, {name: b, inputs: [c]}]}",
            "x.yaml:4: spec.steps[1].inputs: steps.b.inputs: c.outputs names",
        ),
        (
            "{steps: [{name: a, triggers: [c]}]}",
            "x.yaml:4: spec.steps[0].triggers: steps.a.triggers: c.outputs names no",
        ),
        ("{steps: [{name: a, inputs: [a]}]}", "x.yaml:4: spec.steps: steps: a → a is a cycle; set allowCycles"),
        (
            "{steps: [{name: a}], output: {steps: [b]}}",
            "x.yaml:4: spec.output.steps: output.steps: b.outputs names no step",
        ),
        ("{steps: [{name: a}], input: {}}", "x.yaml:4: spec.input.externalInputs: input.externalInputs: at least one"),
        (
            "{steps: [{name: a}], input: {externalInputs: [q.step.s.foo]}}",
            r#"x.yaml:4: spec.input.externalInputs[0]: "q.step.s.foo" is no reference"#,
        ),
        (
            "{steps: [{name: a, tensorMap: {a.outputs: x}}]}",
            "x.yaml:4: spec.steps[0].tensorMap: steps.a.tensorMap: a.outputs names no tensor",
        ),
        (
            "{steps: [{name: a, inputsJoinType: left}]}",
            r#"x.yaml:4: spec.steps[0].inputsJoinType: must be inner or outer or any, but it is "left""#,
        ),
        ("{steps: [{name: a, joinWindowMs: -1}]}", "x.yaml:4: spec.steps[0].joinWindowMs: must be between 0 and"),
        ("{steps: [{name: a}], partitionFactor: 0}", "x.yaml:4: spec.partitionFactor: partitionFactor: 0 leaves no"),
    ] {
        let said = said(&head.replace("spec:\n", &format!("spec: {spec}\n")));
        assert!(said.len() == 1 && said[0].starts_with(expected), "{spec}: {said:?}");
    }
}

#[test]
fn experiments_that_cannot_be_are_refused_at_the_field_to_change() {
    let head = HEAD.replace("Model", "Experiment");
    for (spec, expected) in [
        ("{}", r#"x.yaml:4: spec: required field "candidates" is missing"#),
        ("{candidates: []}", "x.yaml:4: spec.candidates: candidates: at least one, or a mirror, is needed"),
        ("{candidates: [{name: a}]}", r#"x.yaml:4: spec.candidates[0]: required field "weight" is missing"#),
        (
            "{candidates: [{name: a, weight: -1}]}",
            "x.yaml:4: spec.candidates[0].weight: must be between 0 and 2147483647, but it is -1",
        ),
        (
            "{candidates: [{name: a, wieght: 1, weight: 1}]}",
            r#"x.yaml:4: spec.candidates[0].wieght: unknown field "wieght", did you mean "weight"?"#,
        ),
        ("{candidates: [{name: a, weight: 0}]}", "x.yaml:4: spec.candidates: candidates: their weights sum to 0"),
        (
            "{candidates: [{name: a, weight: 1}, {name: a, weight: 1}]}",
            "x.yaml:4: spec.candidates: candidates: a is there more than once",
        ),
        (
            "{default: b, candidates: [{name: a, weight: 1}]}",
            "x.yaml:4: spec.default: default: b is not among the candidates",
        ),
        ("{default: B, candidates: [{name: a, weight: 1}]}", r#"x.yaml:4: spec.default: model name "B" must match"#),
        ("{candidates: [{name: a_b, weight: 1}]}", r#"x.yaml:4: spec.candidates[0].name: model name "a_b" must match"#),
        (
            "{candidates: [], mirror: {name: a, percent: 101}}",
            "x.yaml:4: spec.mirror.percent: must be between 0 and 100, but it is 101",
        ),
        (
            "{candidates: [{name: a, weight: 1}], resourceType: server}",
            r#"x.yaml:4: spec.resourceType: must be model or pipeline, but it is "server""#,
        ),
    ] {
        let said = said(&head.replace("spec:\n", &format!("spec: {spec}\n")));
        assert!(said.len() == 1 && said[0].starts_with(expected), "{spec}: {said:?}");
    }
    let said =
        said(&head.replace("name: iris", "name: a/b").replace("spec:", "spec: {candidates: [{name: a, weight: 1}]}"));
    assert!(said.len() == 1 && said[0].starts_with("x.yaml:3: metadata.name: experiment name"), "{said:?}");
}

#[test]
fn what_is_no_resource_is_refused() {
    for (text, expected) in [
        ("", "x.yaml: there is no document in it"),
        ("# nothing\n---\n...\n", "x.yaml: there is no document in it"),
        ("just text", "x.yaml:1: must be a mapping with apiVersion, kind, metadata and spec, but it is text"),
        ("- a", "must be a mapping with apiVersion"),
        ("{}", r#"required field "apiVersion" is missing"#),
        ("a: 1\na: 2", r#"x.yaml:2: cannot be read as YAML: field "a" is there twice"#),
        ("1: a", "a field name (put it in quotes when it looks like a number)"),
        ("a: !secret b", "without a tag"),
        ("a: .nan", "a number must be finite"),
        ("a: *b", "unknown anchor"),
        ("\u{0}", "cannot be read as YAML"),
        ("a: 340282366920938463463374607431768211455", "cannot be read as YAML"),
    ] {
        let said = said(text).join("\n");
        assert!(said.contains(expected), "{text:?}: {said}");
    }
}

#[test]
fn hostile_documents_are_refused_within_bounds() {
    let laughs: String = (1..20).fold("a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned(), |text, i| {
        let p = i - 1;
        text + &format!("a{i}: &a{i} [*a{p},*a{p},*a{p},*a{p},*a{p},*a{p},*a{p},*a{p},*a{p}]\n")
    });
    let flat = format!("a: &a {}\nb:\n{}", "x".repeat(500_000), "- *a\n".repeat(50_000));
    let tree = format!("a: &a\n{}b:\n{}", "- x\n".repeat(100_000), "- *a\n".repeat(50_000));
    let block = "- ".repeat(200_000);
    for (text, expected) in [
        ("[".repeat(1_000_000), "the number of brackets in the document is larger than"),
        ("[".repeat(4000), "cannot be read as YAML"),
        (format!("{}{}", "[".repeat(60), "]".repeat(60)), "it is nested deeper than 48 levels"),
        (block, "cannot be read as YAML"),
        (laughs, "repetition limit"),
        (flat, "bytes"),
        (tree, "bytes"),
        ("a".repeat(2_000_000), "the document (bytes) is larger than"),
        ("a".repeat(20_000_000), "the text (bytes) is larger than"),
        ("a\n---\n".repeat(60_000), "the number of documents is larger than"),
    ] {
        let said = said(&text).join("\n");
        assert!(said.contains(expected), "{}…: {said}", &text[..20]);
    }
}

#[test]
fn a_long_list_of_violations_is_cut_and_says_so() {
    let said = said(&"a: 1\n---\n".repeat(1000));
    assert_eq!(said.len(), 51);
    assert_eq!(said[50], "x.yaml: 4950 more violations are not shown");
}
