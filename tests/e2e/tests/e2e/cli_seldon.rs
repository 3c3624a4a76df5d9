//! The program called as `seldon`, by a link of that name, against real models: loads and waits, calls by REST and gRPC,
//! tallies, sticky sessions and an experiment.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{SERVER, Said, Shape, Stack, iris, root, scenario};
use serde_json::Value;
use tokio::process::Command;

/// Calls whose ways are counted: the chance that one of two equal candidates gets none of them is 2^-99.
const CALLS: &str = "100";
/// The request as JSON of the protobuf message.
const PROTO: &str = r#"{"model_name":"x","inputs":[{"name":"X","datatype":"FP32","shape":["1","4"],"contents":{"fp32_contents":[5.1,3.5,1.4,0.2]}}],"outputs":[{"name":"label"}]}"#;

/// Runs a command line in the stack's folder, which is its home as well.
async fn seldon(stack: &Stack, arguments: &[&str]) -> Result<Said> {
    let link = stack.folder().join("seldon");
    if !link.exists() {
        std::os::unix::fs::symlink(harness::switchyard(), &link)?;
    }
    let mut command = Command::new(link);
    command.args(arguments).current_dir(stack.folder()).env_clear().env("HOME", stack.folder()).stdin(Stdio::null());
    command.env("SELDON_SCHEDULE_HOST", stack.scheduler.address());
    command.env("SELDON_INFER_HOST", stack.envoys[0].address().to_string());
    let started = Instant::now();
    let output = tokio::time::timeout(crate::LOADS_WITHIN, command.kill_on_drop(true).output()).await;
    let output = output.with_context(|| format!("seldon {arguments:?} does not end"))??;
    Ok(Said {
        code: output.status.code(),
        out: String::from_utf8(output.stdout)?,
        err: String::from_utf8(output.stderr)?,
        took: started.elapsed(),
    })
}

/// The same for a call of `iris` with one request, and more flags.
async fn infer(stack: &Stack, flags: &str) -> Result<Said> {
    let arguments = ["model", "infer", "iris", iris::BODY].into_iter().chain(flags.split_whitespace());
    seldon(stack, &arguments.collect::<Vec<_>>()).await
}

#[test]
fn scripts_for_the_compatible_command_line_work() {
    scenario("cli-seldon", Shape { replicas: 1, ..Shape::default() }, async |stack| {
        load(stack).await?;
        one_call(stack).await?;
        headers(stack).await?;
        many_calls(stack).await?;
        errors(stack).await?;
        experiment(stack).await?;
        let said = seldon(stack, &["server", "list"]).await?.well()?;
        let row: Vec<&str> = said.lines().nth(2).unwrap_or_default().split_whitespace().collect();
        ensure!(row == [SERVER, "1", "2"], "{said}");
        seldon(stack, &["unload", "-f", "both.yaml", "--force"]).await?.well()?;
        seldon(stack, &["model", "status", "iris", "-w", "ModelTerminated", "-t", "20"]).await?.well()?;
        let said = infer(stack, "").await?.failed(255)?;
        ensure!(said.starts_with("Error: V2 server error: 404 ") && said.contains("iris"), "{said}");
        let said = infer(stack, "--inference-mode grpc").await?.failed(255)?;
        ensure!(said.starts_with("Error: rpc error: code = Unimplemented desc = ") && said.contains("iris"), "{said}");
        Ok(())
    });
}

async fn load(stack: &Stack) -> Result<()> {
    let manifest = std::fs::read_to_string(root().join("samples/iris.yaml"))?;
    let manifest = manifest.replace("./models/iris", &harness::sample("iris").display().to_string());
    let second = manifest.replace("name: iris", "name: second");
    ensure!(second != manifest, "{manifest}");
    std::fs::write(stack.folder().join("both.yaml"), format!("{manifest}\n---\n{second}"))?;
    let said = seldon(stack, &["load", "-f", "both.yaml", "--force"]).await?.well()?;
    ensure!(said.lines().skip(1).collect::<Vec<_>>() == ["{}", "{}"], "{said}");
    for model in ["iris", "second"] {
        let said = seldon(stack, &["model", "status", model, "-w", "ModelAvailable", "-t", "20"]).await?.well()?;
        ensure!(said == "{}\n", "{said}");
    }
    // Whoever waited can call at once.
    iris::check_json(&infer(stack, "").await?.well()?)?;
    let said = seldon(stack, &["status", "-f", "both.yaml", "-w"]).await?.well()?;
    ensure!(said.lines().filter(|line| line.contains(r#""state":"ModelAvailable""#)).count() == 2, "{said}");
    let said = seldon(stack, &["model", "metadata", "iris"]).await?.well()?;
    let json: Value = serde_json::from_str(&said)?;
    ensure!(json["inputs"][0]["name"] == "X" && said.contains("\n\t\"inputs\": [\n\t\t{\n"), "{said}");
    Ok(())
}

async fn one_call(stack: &Stack) -> Result<()> {
    let said = infer(stack, "").await?.well()?;
    iris::check_json(&said)?;
    ensure!(said.contains("\"data\": [\n\t\t\t\t0\n\t\t\t]"), "every item has its line: {said}");
    for (mode, body) in [("rest", iris::BODY), ("grpc", PROTO), ("grpc", iris::BODY)] {
        std::fs::write(stack.folder().join("request.json"), body)?;
        let arguments = ["model", "infer", "iris", "-f", "request.json", "--inference-mode", mode];
        let said = seldon(stack, &arguments).await?.well()?;
        if mode == "rest" {
            iris::check_json(&said)?;
            continue;
        }
        ensure!(said.lines().count() == 1, "{said}");
        let json: Value = serde_json::from_str(&said)?;
        ensure!(json["outputs"][0]["contents"] == serde_json::json!({"int64Contents": ["0"]}), "{said}");
        ensure!(json["outputs"][0]["name"] == "label" && json["rawOutputContents"].is_null(), "{said}");
    }
    let said = infer(stack, "-r -o=false").await?.well()?;
    ensure!(said.trim_end() == iris::BODY, "the request and no answer: {said}");
    Ok(())
}

async fn headers(stack: &Stack) -> Result<()> {
    let said = infer(stack, "--show-headers --header X-Mine=a=b -o=false").await?.well()?;
    for line in
        ["> Seldon-Model:[iris]", "> X-Mine:[a=b]", "> Content-Type:[application/json]", "< X-Seldon-Route:[:iris_1:]"]
    {
        ensure!(said.lines().any(|found| found == line), "{line} is not in\n{said}");
    }
    let said =
        infer(stack, "--show-headers --inference-mode grpc -o=false --authority models.example").await?.well()?;
    for line in ["> seldon-model:[iris]", "< x-seldon-route:[:iris_1:]"] {
        ensure!(said.lines().any(|found| found == line), "{line} is not in\n{said}");
    }
    for mode in ["rest", "grpc"] {
        let said = infer(stack, &format!("--header seldon-model=second -i 2 --inference-mode {mode}")).await?.well()?;
        ensure!(said == "Success: map[:second_1::2]\n", "the header decides: {said}");
    }
    Ok(())
}

async fn many_calls(stack: &Stack) -> Result<()> {
    for mode in ["rest", "grpc"] {
        let said = infer(stack, &format!("-i 50 --inference-mode {mode}")).await?.well()?;
        ensure!(said == "Success: map[:iris_1::50]\n", "{said}");
        let said = infer(stack, &format!("-t 1 --inference-mode {mode}")).await?;
        ensure!((Duration::from_secs(1)..Duration::from_secs(4)).contains(&said.took), "{:?}", said.took);
        let said = said.well()?;
        let count = said.trim_end().strip_prefix("Success: map[:iris_1::").and_then(|rest| rest.strip_suffix(']'));
        ensure!(count.and_then(|count| count.parse::<u32>().ok()).is_some_and(|count| count > 10), "{said}");
    }
    Ok(())
}

async fn errors(stack: &Stack) -> Result<()> {
    let bad = iris::BODY.replace("FP32", "FP31");
    let said = seldon(stack, &["model", "infer", "iris", &bad]).await?.failed(255)?;
    ensure!(said.contains("FP31") && !said.contains("V2 server error"), "a 400 is its text: {said}");
    let bad = PROTO.replace("FP32", "FP31");
    let grpc = ["--inference-mode", "grpc"];
    let arguments = ["model", "infer", "iris", bad.as_str()].into_iter().chain(grpc);
    let said = seldon(stack, &arguments.collect::<Vec<_>>()).await?.failed(255)?;
    ensure!(said.starts_with("Error: rpc error: code = InvalidArgument desc = ") && said.contains("FP31"), "{said}");
    let many = seldon(stack, &["model", "infer", "nosuch", iris::BODY, "-i", "3"]).await?;
    ensure!(many.out == "Success: map[]\nErrors: map[404:3]\n", "{}", many.out);
    let said = many.failed(255)?;
    ensure!(said.contains("3 of 3 calls failed"), "{said}");
    Ok(())
}

async fn experiment(stack: &Stack) -> Result<()> {
    let split = "apiVersion: mlops.seldon.io/v1alpha1\nkind: Experiment\nmetadata: {name: split}\nspec:\n  default: iris\n  \
                 candidates: [{name: iris, weight: 50}, {name: second, weight: 50}]\n";
    std::fs::write(stack.folder().join("split.yaml"), split)?;
    seldon(stack, &["experiment", "start", "-f", "split.yaml", "--force"]).await?.well()?;
    let said = seldon(stack, &["experiment", "status", "split", "-w", "-t", "20"]).await?.well()?;
    let status: Value = serde_json::from_str(&said)?;
    ensure!(status["active"] == true && status["candidatesReady"] == true && status["mirrorReady"] == true, "{said}");
    let said = seldon(stack, &["experiment", "list"]).await?.well()?;
    ensure!(said.lines().any(|line| line.split_whitespace().eq(["split", "true"])), "{said}");
    for (model, mode) in
        [("iris", "rest"), ("iris", "grpc"), ("split.experiment", "rest"), ("split.experiment", "grpc")]
    {
        let call = ["model", "infer", model, iris::BODY, "--inference-mode", mode, "-i", CALLS];
        let said = seldon(stack, &call).await?.well()?;
        ensure!(said.contains(":iris_1::") && said.contains(":second_1::"), "{model} by {mode}: {said}");
        // The first sticky call goes anywhere, all others go the same way.
        let sticky: Vec<&str> = call.into_iter().chain(["-s"]).collect();
        let said = seldon(stack, &sticky).await?.well()?;
        let route = std::fs::read_to_string(stack.folder().join(".config/seldon/cli/session"))?;
        ensure!(said == format!("Success: map[{route}:{CALLS}]\n"), "{model} by {mode} sticks to {route}: {said}");
    }
    // What is stored is what is sent, also by another process.
    for route in [":second_1:", ":iris_1:"] {
        std::fs::write(stack.folder().join(".config/seldon/cli/session"), route)?;
        let said = infer(stack, "-s -i 30").await?.well()?;
        ensure!(said == format!("Success: map[{route}:30]\n"), "{route}: {said}");
    }
    seldon(stack, &["experiment", "stop", "split", "--force"]).await?.well()?;
    let again = seldon(stack, &["experiment", "stop", "split", "--force"]).await?.failed(255)?;
    ensure!(again.contains("stopped already"), "{again}");
    Ok(())
}

#[test]
fn the_own_command_line_waits_for_experiments_and_sticks_to_a_way() {
    scenario("cli-own", Shape { replicas: 1, ..Shape::default() }, async |stack| {
        let model = |name: &str| {
            let uri = harness::sample("iris").display().to_string();
            format!(
                "apiVersion: mlops.seldon.io/v1alpha1\nkind: Model\nmetadata: {{name: {name}}}\n\
                 spec: {{storageUri: {uri}, requirements: [onnx], memory: 1Mi}}\n"
            )
        };
        // The experiment stands before the models that it needs.
        let split = "apiVersion: mlops.seldon.io/v1alpha1\nkind: Experiment\nmetadata: {name: split}\n\
                     spec: {candidates: [{name: a, weight: 1}, {name: b, weight: 1}]}\n";
        let file = stack.folder().join("all.yaml").display().to_string();
        std::fs::write(&file, format!("{split}---\n{}---\n{}", model("a"), model("b")))?;
        let said = stack.switchyard(&["load", "-f", &file, "--wait"]).await?.well()?;
        let heads = [
            "experiment split: active",
            "model a: version 1 is ModelAvailable",
            "model b: version 1 is ModelAvailable",
        ];
        let lines: Vec<&str> = said.lines().collect();
        ensure!(lines.len() == 3 && lines.iter().zip(heads).all(|(line, head)| line.starts_with(head)), "{said}");
        let call = ["model", "infer", "split.experiment", iris::BODY, "-i", CALLS];
        let said = stack.switchyard(&call).await?.well()?;
        ensure!(said.contains(":a_1::") && said.contains(":b_1::"), "{said}");
        let said = stack.switchyard(&["model", "infer", "a", iris::BODY, "--seconds", "1"]).await?.well()?;
        ensure!(said.starts_with("Success: map[:a_1::"), "{said}");
        let said = stack.switchyard(&["unload", "-f", &file, "--wait"]).await?.well()?;
        ensure!(said == "experiment split: stopped\nmodel a: unloaded\nmodel b: unloaded\n", "{said}");
        Ok(())
    });
}
