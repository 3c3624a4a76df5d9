//! The program's verbs against a stack: exit statuses, what is printed, and where.

use anyhow::{Context, Result, ensure};
use harness::{SERVER, Shape, Stack, iris, scenario};
use serde_json::Value;

#[test]
fn verbs_do_what_they_say() {
    scenario("cli", Shape { replicas: 1, ..Shape::default() }, async |stack| {
        load_and_look(stack).await?;
        infer(stack).await?;
        servers(stack).await?;
        refusals(stack).await?;
        let said = stack.switchyard(&["model", "unload", "iris", "--wait"]).await?.well()?;
        ensure!(said == "model iris: unloaded\n", "{said}");
        let said = stack.switchyard(&["model", "infer", "iris", iris::BODY]).await?.failed(1)?;
        ensure!(said.contains("iris") && said.contains("404"), "{said}");
        Ok(())
    });
}

async fn load_and_look(stack: &Stack) -> Result<()> {
    let loaded = stack.switchyard(&["model", "load", "-f", "samples/iris.yaml", "--wait"]).await?;
    println!("cli: `model load --wait` took {} ms", loaded.took.as_millis());
    let said = loaded.well()?;
    ensure!(said.starts_with("model iris: version 1 is ModelAvailable on onnx"), "{said}");
    let answer = stack.rest().infer("iris", iris::BODY).await?;
    iris::check_json(&answer.body).context("it answers once `--wait` has returned")?;

    let said = stack.switchyard(&["model", "status", "iris"]).await?.well()?;
    ensure!(said.contains("iris") && said.contains("ModelAvailable"), "{said}");
    let json: Value =
        serde_json::from_str(&stack.switchyard(&["model", "status", "iris", "-o", "json"]).await?.well()?)?;
    ensure!(json["versions"][0]["state"]["state"] == "ModelAvailable", "{json}");
    let said = stack.switchyard(&["model", "list"]).await?.well()?;
    ensure!(said.lines().any(|line| line.starts_with("iris")), "{said}");
    let json: Value = serde_json::from_str(&stack.switchyard(&["model", "list", "-o", "json"]).await?.well()?)?;
    ensure!(json[0]["modelName"] == "iris", "{json}");
    let json: Value = serde_json::from_str(&stack.switchyard(&["model", "metadata", "iris"]).await?.well()?)?;
    ensure!(json["inputs"][0]["name"] == "X", "{json}");
    Ok(())
}

async fn infer(stack: &Stack) -> Result<()> {
    for mode in ["rest", "grpc"] {
        let said = stack.switchyard(&["model", "infer", "iris", iris::BODY, "--inference-mode", mode]).await?.well()?;
        iris::check_json(&said).with_context(|| mode.to_owned())?;
        let many = ["model", "infer", "iris", iris::BODY, "--inference-mode", mode, "--iterations", "10"];
        let said = stack.switchyard(&many).await?.well()?;
        ensure!(said.trim() == "Success: map[:iris_1::10]", "{said}");
    }
    let bad = iris::BODY.replace("FP32", "FP31");
    for mode in ["rest", "grpc"] {
        let said = stack.switchyard(&["model", "infer", "iris", &bad, "--inference-mode", mode]).await?.failed(1)?;
        ensure!(said.contains("FP31"), "{mode}: {said}");
    }
    Ok(())
}

async fn servers(stack: &mut Stack) -> Result<()> {
    let said = stack.switchyard(&["server", "list"]).await?.well()?;
    ensure!(said.lines().any(|line| line.starts_with(SERVER)), "{said}");
    let json: Value =
        serde_json::from_str(&stack.switchyard(&["server", "status", SERVER, "-o", "json"]).await?.well()?)?;
    ensure!(json["availableReplicas"] == 1 && json["expectedReplicas"] == 1, "{json}");
    let said = stack.switchyard(&["server", "scale", SERVER, "--replicas", "2"]).await?.well()?;
    ensure!(said == "server onnx: 2 replicas wanted\n", "{said}");
    stack.add_agent().await?;
    let said = stack.switchyard(&["server", "scale", SERVER, "--replicas", "2", "--wait"]).await?.well()?;
    ensure!(said.contains("2 of 2 replicas are available"), "{said}");
    Ok(())
}

async fn refusals(stack: &Stack) -> Result<()> {
    let good = std::fs::read_to_string(harness::root().join("samples/iris.yaml"))?;
    let cases = [
        (good.replace("storageUri", "storgeUri"), "did you mean \"storageUri\""),
        (good.replace("kind: Model", "kind: Modle"), "Modle"),
        (good.replace("name: iris", "name: Iris_1"), "Iris_1"),
        (good.replace("memory: 1Mi", "memory: 1Mi\n  replicas: -1"), "replicas"),
        (good.replace("memory: 1Mi", "memory: lots"), "memory"),
        ("{".to_owned(), "bad.yaml"),
    ];
    let path = stack.folder().join("bad.yaml");
    let file = path.display().to_string();
    for (text, word) in cases {
        ensure!(text != good, "the case for {word} changes something");
        std::fs::write(&path, text)?;
        let said = stack.switchyard(&["model", "load", "-f", &file]).await?.failed(1)?;
        ensure!(said.contains(word) && said.contains("bad.yaml"), "{word}: {said}");
    }
    for (arguments, word) in [
        (&["model", "status", "nosuch"][..], "nosuch"),
        (&["model", "unload", "nosuch"], "nosuch"),
        (&["server", "status", "nosuch"], "nosuch"),
        (&["server", "scale", "nosuch", "--replicas", "1"], "nosuch"),
        (&["model", "infer", "iris", "{"], "JSON"),
        (&["model", "load", "-f", "nosuch.yaml"], "nosuch.yaml"),
    ] {
        let said = stack.switchyard(arguments).await?.failed(1)?;
        ensure!(said.contains(word), "{arguments:?}: {said}");
    }
    let said = stack.switchyard(&["server", "scale", SERVER, "--replicas", "-1"]).await?.failed(2)?;
    ensure!(said.contains("-1"), "{said}");
    Ok(())
}
