//! What is in the topics of pipelines, what producers of one's own may write there, and the verbs that look at it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use harness::{Up, header_of as header, onnx, pipeline, until};
use http::StatusCode;
use messages::inference as pb;
use prost::Message;
use serde_json::{Value, json};

const WITHIN: Duration = Duration::from_secs(10);

const CHAIN: &str = r#"{"apiVersion": "mlops.seldon.io/v1alpha1", "kind": "Pipeline", "metadata": {"name": "p"}, "spec": {
  "steps": [{"name": "add10"},
    {"name": "mul10", "inputs": ["add10.outputs.OUTPUT"], "tensorMap": {"add10.outputs.OUTPUT": "INPUT"}}],
  "output": {"steps": ["mul10"]}, "dataflow": {"cleanTopicsOnDelete": true}}}"#;

/// Takes what the first one answers, and what its first step answered.
const TAPS: &str = r#"{"apiVersion": "mlops.seldon.io/v1alpha1", "kind": "Pipeline", "metadata": {"name": "q"}, "spec": {
  "input": {"externalInputs": ["p.outputs.OUTPUT", "p.step.add10.outputs.OUTPUT"],
    "tensorMap": {"p.outputs.OUTPUT": "INPUT0", "p.step.add10.outputs.OUTPUT": "INPUT1"}},
  "steps": [{"name": "add20", "inputs": ["q.inputs.INPUT1"], "tensorMap": {"q.inputs.INPUT1": "INPUT"}}],
  "output": {"steps": ["add20"]}}}"#;

const ASK: &str = r#"{"id": "mine", "inputs":[{"name":"INPUT","datatype":"FP32","shape":[2],"data":[1,2]}]}"#;

async fn up() -> Result<Up> {
    let mut up = Up::new(&[])?;
    up.start().await?;
    up.load(&onnx::samples(up.folder())?).await?;
    up.pipeline(CHAIN).await?;
    Ok(up)
}

fn message(values: &[f32]) -> Bytes {
    let tensor = pb::model_infer_request::InferInputTensor {
        name: "INPUT".into(),
        datatype: "FP32".into(),
        shape: vec![i64::try_from(values.len()).unwrap_or(0)],
        contents: Some(pb::InferTensorContents { fp32_contents: values.to_vec(), ..Default::default() }),
        ..Default::default()
    };
    pb::ModelInferRequest { inputs: vec![tensor], ..Default::default() }.encode_to_vec().into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_keeps_its_key_its_partition_and_its_headers() -> Result<()> {
    let mut up = up().await?;
    let headers = [("x-request-id", "abc"), ("X-Foo", "bar"), ("seldon-internal-model", "fails_1")];
    let answer = up.rest().post("/v2/pipelines/p/infer", &headers, ASK).await?;
    ensure!(answer.status == StatusCode::OK, "{} {}", answer.status, answer.body);
    ensure!(answer.json()?["outputs"][0]["data"] == json!([110.0, 120.0]), "{}", answer.body);
    ensure!(answer.json()?["id"] == "mine", "the id is kept: {}", answer.body);
    let ids: Vec<&str> = answer.headers.get_all("x-request-id").iter().filter_map(|id| id.to_str().ok()).collect();
    let ids = ids.join(",");
    ensure!(ids.ends_with(".p.abc,abc"), "{ids}");
    ensure!(answer.header("x-foo") == "bar" && answer.header("x-pipeline-version") == "1", "{:?}", answer.headers);
    let routes: Vec<&str> = answer.headers.get_all("x-seldon-route").iter().filter_map(|id| id.to_str().ok()).collect();
    let routes = routes.join(",");
    let at = |route: &str| routes.find(route).with_context(|| format!("{route} is missing in {routes}"));
    ensure!(at(":add10_1:")? < at(":mul10_1:")? && at(":mul10_1:")? < at(":p.pipeline:")?, "{routes}");
    let key = ids.split(',').next().context("a key")?.to_owned();
    let partition: u32 = key.split('.').next().context("a partition")?.parse()?;
    for topic in [
        "pipeline.p.inputs",
        "model.add10.inputs",
        "model.add10.outputs",
        "model.mul10.inputs",
        "model.mul10.outputs",
        "pipeline.p.outputs",
    ] {
        let records = up.topics().arrives(&format!("seldon.default.{topic}"), &key, 1).await?;
        ensure!(records[0].partition == partition, "{topic}: {}", records[0].partition);
        ensure!(header(&records[0], "pipeline") == ["p"], "{topic}");
        ensure!(header(&records[0], "x-pipeline-version") == ["1"], "{topic}");
        ensure!(header(&records[0], "x-request-id") == ["abc"], "{topic}");
        ensure!(header(&records[0], "x-foo") == ["bar"], "{topic}: steps see the caller's headers");
    }
    // The verbs that look at it.
    let said =
        up.verb(&["pipeline", "inspect", "p.add10.outputs.OUTPUT", "--request-id", "abc", "--format", "json"]).await?;
    let found: Value = serde_json::from_str(&said.well()?)?;
    ensure!(found["topics"][0]["name"] == "seldon.default.model.add10.outputs", "{found}");
    ensure!(found["topics"][0]["msgs"][0]["key"] == key.as_str(), "{found}");
    ensure!(found["topics"][0]["msgs"][0]["value"]["outputs"][0]["data"] == json!([11.0, 12.0]), "{found}");
    let both = format!("{key},abc");
    for id in ["abc", &key, &both] {
        let said = up.verb(&["pipeline", "inspect", "p", "--request-id", id]).await?.well()?;
        ensure!(said.matches("Topic:\t").count() == 7 && said.contains(&key), "{said}");
    }
    // Called as `seldon` it has that one's flags.
    let link = up.folder().join("seldon");
    std::os::unix::fs::symlink(harness::switchyard(), &link).context("make the link")?;
    let mut seldon = tokio::process::Command::new(&link);
    seldon.args(["pipeline", "inspect", "p.add10.outputs", "--request-id", "abc", "--format", "json", "-d", "10"]);
    seldon.args(["--kafka-broker", &up.address(9_012).to_string(), "--namespace", "default"]);
    let compatible = seldon.env("HOME", up.folder()).output().await.context("run it")?;
    let compatible: Value = serde_json::from_slice(&compatible.stdout).context("pure JSON")?;
    ensure!(compatible["topics"][0]["msgs"][0]["key"] == key.as_str(), "{compatible}");
    let bad = [
        ("p.x.y.z.a", "inputs"),
        ("p.add10.both", "inputs"),
        ("P", "pipeline name"),
        ("p.nobody.outputs", "no step nobody, but add10, mul10"),
        ("p.add10.outputs.NOTHING", "no tensor NOTHING, but OUTPUT"),
    ];
    for (bad, problem) in bad {
        let said = up.verb(&["pipeline", "inspect", bad]).await?.failed(1)?;
        ensure!(said.contains(problem), "{said}");
    }
    let said = up.verb(&["doctor", "p", ASK]).await?.well()?;
    ensure!(
        said.contains("ok    model.add10.outputs") && said.contains("the answer came back through Envoy"),
        "{said}"
    );
    let said = up.verb(&["doctor", "nobody"]).await?.failed(1)?;
    ensure!(said.contains("nobody"), "{said}");
    up.part.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipeline_is_fed_by_another_and_by_its_steps() -> Result<()> {
    let mut up = up().await?;
    up.pipeline(TAPS).await?;
    let answer = up.rest().post("/v2/pipelines/p/infer", &[("x-request-id", "r")], ASK).await?;
    ensure!(answer.status == StatusCode::OK, "{} {}", answer.status, answer.body);
    let key = answer.header("x-request-id").split(',').next().context("a key")?.to_owned();
    let entered = up.topics().arrives("seldon.default.pipeline.q.inputs", &key, 1).await?.remove(0);
    ensure!(header(&entered, "pipeline") == ["q"] && header(&entered, "switchyard-deadline").is_empty(), "{entered:?}");
    let sources = header(&entered, "switchyard-sources");
    ensure!(sources[0].split(',').count() == 2, "{sources:?}");
    let message = pb::ModelInferRequest::decode(entered.value.clone())?;
    let names: Vec<_> = message.inputs.iter().map(|tensor| tensor.name.as_str()).collect();
    ensure!(names == ["INPUT0", "INPUT1"], "{names:?}");
    let out = up.topics().arrives("seldon.default.pipeline.q.outputs", &key, 1).await?.remove(0);
    let message = pb::ModelInferResponse::decode(out.value)?;
    ensure!(
        message.raw_output_contents[0].as_ref() == [31_f32.to_le_bytes(), 32_f32.to_le_bytes()].concat(),
        "{message:?}"
    );
    // Records of the first pipeline are nobody's at the model that both could use.
    ensure!(
        up.topics()
            .read("seldon.default.model.add20.inputs")
            .await?
            .iter()
            .all(|record| header(record, "pipeline") == ["q"])
    );
    up.part.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_records_are_served_and_bad_ones_cost_nobody_else_anything() -> Result<()> {
    let mut up = up().await?;
    // Every kind of payload that a model's topic takes.
    let response = {
        let request = pb::ModelInferRequest::decode(message(&[3.0]))?;
        let tensor = request.inputs.into_iter().map(|tensor| pb::model_infer_response::InferOutputTensor {
            name: tensor.name,
            datatype: tensor.datatype,
            shape: tensor.shape,
            contents: None,
            ..Default::default()
        });
        let raw = vec![Bytes::from(3_f32.to_le_bytes().to_vec())];
        pb::ModelInferResponse { outputs: tensor.collect(), raw_output_contents: raw, ..Default::default() }
    };
    let response = Bytes::from(response.encode_to_vec());
    let json_request = Bytes::from_static(br#"{"inputs":[{"name":"INPUT","datatype":"FP32","shape":[1],"data":[4]}]}"#);
    let json_response =
        Bytes::from_static(br#"{"outputs":[{"name":"INPUT","datatype":"FP32","shape":[1],"data":[5]}]}"#);
    let inputs = "seldon.default.model.add10.inputs";
    let good = [
        (message(&[1.0]), None),
        (message(&[2.0]), Some("proto/InferModelRequest")),
        (response.clone(), None),
        (response, Some("proto/InferModelResponse")),
        (json_request.clone(), None),
        (json_request, Some("json/inferModelRequest")),
        (json_response.clone(), None),
        (json_response, Some("json/inferModelResponse")),
    ];
    let carried = [("x-foo", "bar"), ("x-request-id", "seen-by-envoy"), ("x-seldon-route", ":earlier_1:")];
    for (value, kind) in &good {
        let headers: Vec<_> = kind.iter().map(|kind| ("seldon-infer-type", *kind)).chain(carried).collect();
        up.topics().append(inputs, value.clone(), &headers).await?;
    }
    let answers = up.topics().arrives("seldon.default.model.add10.outputs", "5.mine", good.len()).await?;
    ensure!(answers.iter().all(|record| record.partition == 5 && header(record, "x-foo") == ["bar"]));
    ensure!(answers.iter().all(|record| header(record, "x-seldon-route") == [":earlier_1:", ":add10_1:"]));
    let json = answers.iter().filter(|record| record.value.starts_with(b"{")).count();
    ensure!(json == 4, "JSON is answered with JSON: {json}");
    // Envoy sees the headers; of requests that fail it tells.
    up.topics().append("seldon.default.model.fails.inputs", message(&[1.0]), &carried).await?;
    let access_log = up.dir().join("envoy-accesslog.txt");
    until(WITHIN, "the call is in Envoy's access log", async || {
        let lines = std::fs::read_to_string(&access_log).context("read the access log")?;
        let is_seen = lines.lines().any(|line| line.contains("\"seen-by-envoy\"") && line.contains("\"fails\""));
        ensure!(is_seen, "{lines}");
        Ok(())
    })
    .await?;
    // And what none takes.
    let errors = "seldon.default.errors.errors";
    for (value, headers, says) in [
        (Bytes::from_static(b"\xff\xff"), vec![], "neither a protobuf message nor JSON"),
        (Bytes::from_static(b"{"), vec![], "neither"),
        (message(&[1.0]), vec![("seldon-infer-type", "xml")], "no value of seldon-infer-type"),
        (message(&[]), vec![("seldon-infer-type", "proto/InferModelResponse"), ("x-a", "b")], ""),
    ] {
        let before = up.topics().read(errors).await?.len();
        up.topics().append(inputs, value, &headers).await?;
        if says.is_empty() {
            continue;
        }
        let record = until(WITHIN, says, async || {
            let all = up.topics().read(errors).await?;
            all.into_iter().nth(before).context("no error yet")
        });
        let record = record.await?;
        let text = String::from_utf8_lossy(&record.value).into_owned();
        ensure!(text.contains(says), "{text}");
        ensure!(
            header(&record, "seldon-pipeline-errors") == ["add10"]
                && record.partition == 5
                && record.key == b"5.mine"[..]
        );
    }
    // Entries of a pipeline: without any header, as a copy of another topic's record, and as rubbish.
    let entries = "seldon.default.pipeline.p.inputs";
    up.topics().append(entries, message(&[1.0]), &[]).await?;
    let outputs = "seldon.default.pipeline.p.outputs";
    up.topics().arrives(outputs, "5.mine", 1).await?;
    let copied =
        up.topics().read(inputs).await?.into_iter().find(|record| !header(record, "switchyard-root").is_empty());
    let copied = copied.context("a record of ours")?;
    let names: Vec<(&str, &str)> = copied
        .headers
        .iter()
        .map(|header| (header.name.as_str(), std::str::from_utf8(&header.value).unwrap_or_default()))
        .collect();
    up.topics().append(entries, message(&[2.0]), &names).await?;
    up.topics().append(entries, message(&[2.0]), &names).await?;
    up.topics().arrives(outputs, "5.mine", 3).await?;
    up.topics().append(entries, Bytes::from_static(b"\x01rubbish"), &[("pipeline", "p")]).await?;
    let all = up.topics().arrives(outputs, "5.mine", 4).await?;
    let error = all.iter().find(|record| !header(record, "seldon-pipeline-errors").is_empty()).context("an error")?;
    ensure!(String::from_utf8_lossy(&error.value).contains("is no ModelInferRequest"), "{error:?}");
    let too_large = up.topics().append(entries, Bytes::from(vec![0; 65 << 20]), &[]).await;
    ensure!(too_large.is_err_and(|error| error.to_string().contains("larger than the limit")));
    // And all the while a request is answered.
    let answer = up.rest().post("/v2/pipelines/p/infer", &[], ASK).await?;
    ensure!(answer.status == StatusCode::OK, "{} {}", answer.status, answer.body);
    up.part.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipeline_that_is_not_there_not_ready_or_too_slow_says_so_at_once() -> Result<()> {
    let mut up = up().await?;
    let rest = up.rest();
    let ready = async |name: &str| rest.get(&format!("/v2/pipelines/{name}/ready"), &[]).await;
    ensure!(ready("p").await?.status == StatusCode::OK);
    ensure!(ready("nobody").await?.status == StatusCode::NOT_FOUND);
    let mut rpc = up.rpc();
    let asked = |name: &str| {
        let message = pb::ModelReadyRequest { name: name.into(), version: String::new() };
        harness::with_metadata(message, &[("seldon-model", "p.pipeline")])
    };
    ensure!(rpc.model_ready(asked("p")).await?.into_inner().ready);
    let metadata = harness::with_metadata(pb::ModelMetadataRequest::default(), &[("seldon-model", "p.pipeline")]);
    let status = rpc.model_metadata(metadata).await.err().context("no metadata")?;
    ensure!(status.code() == tonic::Code::Unimplemented, "{status:?}");
    let answer = rest.get("/v2/models/p", &[("seldon-model", "p.pipeline")]).await?;
    ensure!(answer.status == StatusCode::NOT_FOUND && answer.error()?.contains("no metadata"), "{}", answer.body);
    // Straight at the gateway, which Envoy would not ask for a pipeline that is not there.
    let direct = harness::Rest::new(up.address(9_010));
    let answer = direct.post("/v2/pipelines/nobody/infer", &[], ASK).await?;
    ensure!(answer.status == StatusCode::NOT_FOUND && answer.error()?.contains("there is no pipeline nobody"));
    for (headers, body, status, says) in [
        (vec![], "{", 400, ""),
        (vec![], r#"{"inputs":[{"name":"INPUT","datatype":"FP33","shape":[1],"data":[1]}]}"#, 400, "FP33"),
        (vec![], r#"{"inputs":[{"name":"INPUT","datatype":"FP32","shape":[3],"data":[1]}]}"#, 400, "inputs[0]"),
        (vec![("switchyard-timeout-ms", "soon")], ASK, 400, "switchyard-timeout-ms"),
    ] {
        let answer = rest.post("/v2/pipelines/p/infer", &headers, body).await?;
        ensure!(answer.status == status && answer.body.contains(says), "{} {}", answer.status, answer.body);
    }
    // So many at once that a millisecond is not enough for all of them.
    let hasty = || rest.post("/v2/pipelines/p/infer", &[("switchyard-timeout-ms", "1")], ASK);
    let mut late = 0;
    for answer in futures_util::future::join_all((0..100).map(|_| hasty())).await {
        let answer = answer?;
        let is_late = answer.status == StatusCode::GATEWAY_TIMEOUT && answer.body.contains("DEADLINE_EXCEEDED");
        ensure!(is_late || answer.status == StatusCode::OK, "{} {}", answer.status, answer.body);
        late += usize::from(is_late);
    }
    ensure!(late > 0, "all were answered within a millisecond");
    // Two requests with one id, at the same time.
    let twice = async || rest.post("/v2/pipelines/p/infer", &[("x-request-id", "same")], ASK).await;
    let (one, two) = futures_util::future::join(twice(), twice()).await;
    ensure!(one?.status == StatusCode::OK && two?.status == StatusCode::OK);
    // A model that goes while its pipeline stays.
    up.control().remove("mul10").await?;
    until(WITHIN, "the pipeline is not ready", async || {
        let answer = ready("p").await?;
        ensure!(answer.status == StatusCode::FAILED_DEPENDENCY, "{}", answer.status);
        Ok(())
    })
    .await?;
    let answer = rest.post("/v2/pipelines/p/infer", &[], ASK).await?;
    ensure!(
        answer.status == StatusCode::NOT_FOUND && answer.json()?["step"] == "mul10",
        "{} {}",
        answer.status,
        answer.body
    );
    // Topics go with the pipeline that wants it so, and no model's.
    up.verb(&["pipeline", "unload", "p", "--wait"]).await?.well()?;
    let topics = until(WITHIN, "its topics are gone", async || {
        let topics = up.topics().list("").await?;
        ensure!(!topics.iter().any(|topic| topic.name.contains("pipeline.p.")), "they are there");
        Ok(topics)
    });
    ensure!(topics.await?.iter().any(|topic| topic.name == "seldon.default.model.add10.inputs"));
    let answer = rest.post("/v2/pipelines/p/infer", &[], ASK).await?;
    ensure!(answer.status == StatusCode::NOT_FOUND, "{} {}", answer.status, answer.body);
    up.part.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_datatype_comes_back_from_a_pipeline_as_json() -> Result<()> {
    let mut up = Up::new(&[])?;
    up.start().await?;
    up.load(&[("identity", harness::sample("identity"))]).await?;
    let spec = json!({"steps": [{"name": "identity"}], "output": {"steps": ["identity"]}});
    up.pipeline(&pipeline("same", &spec)).await?;
    let values = [
        ("BOOL", json!([true, false])),
        ("INT8", json!([-128, 127])),
        ("INT16", json!([-32768, 32767])),
        ("INT32", json!([-2147483648_i64, 2147483647])),
        ("INT64", json!([-9007199254740993_i64, 9007199254740993_i64])),
        ("UINT8", json!([0, 255])),
        ("UINT16", json!([0, 65535])),
        ("UINT32", json!([0, 4294967295_u32])),
        ("UINT64", json!([0, 18446744073709551615_u64])),
        ("FP16", json!([1.5, -2.0])),
        ("BF16", json!([1.5, -2.0])),
        ("FP32", json!([1.25, -0.5])),
        ("FP64", json!([0.1, -1e300])),
        ("BYTES", json!(["text", "ü€"])),
    ];
    let input = |(datatype, data): &(&str, Value)| json!({"name": format!("in_{datatype}"), "datatype": datatype, "shape": [2], "data": data});
    let body = json!({"inputs": values.iter().map(input).collect::<Vec<_>>()}).to_string();
    let answer = up.rest().post("/v2/pipelines/same/infer", &[], body).await?;
    ensure!(answer.status == StatusCode::OK, "{} {}", answer.status, answer.body);
    let outputs = answer.json()?["outputs"].as_array().cloned().context("outputs")?;
    for (datatype, data) in &values {
        let name = format!("out_{datatype}");
        let output =
            outputs.iter().find(|output| output["name"] == name).with_context(|| format!("{name} is missing"))?;
        ensure!(output["data"] == *data && output["datatype"] == *datatype, "{output}");
    }
    up.part.stop().await?;
    Ok(())
}
