//! Every stream of an Envoy by itself, for `/metrics`: what waits, what is on its way, what was refused, and since when it is
//! quiet. Pure: statuses go in, the Prometheus text format comes out.
//!
//! Invariant: however many Envoys there are and whatever they call themselves, the text is bounded: [`SHOWN`] streams, at most
//! 40 lines each, of [`NODE_CHARS`] of a node id. Streams with trouble come first.

use std::fmt::{self, Write};

use xds::{KindStatus, StreamStatus, Time};

/// Streams that are shown; 4,000 series at most, a scrape of half a megabyte.
const SHOWN: usize = 100;

/// What is shown of a node id. Kubernetes' longest names of pods have 253.
const NODE_CHARS: usize = 253;

/// A series of each stream.
type OfStream = (&'static str, &'static str, &'static str, fn(&StreamStatus, Time) -> u64);

const OF_STREAM: [OfStream; 7] = [
    ("synced", "gauge", "1 when it has applied everything once.", |stream, _| stream.synced.into()),
    ("lagging", "gauge", "1 while it does not keep up, so that nobody waits for it.", |stream, _| {
        stream.lagging.into()
    }),
    ("quiet_seconds", "gauge", "Since its last acknowledgement, or since it came.", |stream, now| {
        now.since(stream.quiet_since).as_secs()
    }),
    ("responses_total", "counter", "Responses to it.", |stream, _| stream.counters.responses),
    ("resources_total", "counter", "Resources in them.", |stream, _| stream.counters.resources),
    ("bytes_total", "counter", "Bytes of them.", |stream, _| stream.bytes),
    ("nacks_total", "counter", "Responses that it refused.", |stream, _| stream.counters.nacks),
];

/// A series of each type of a stream.
type OfKind = (&'static str, &'static str, fn(&KindStatus) -> usize);

const OF_KIND: [OfKind; 4] = [
    ("pending", "Resources to be sent as soon as the response before is answered.", |kind| kind.pending),
    ("held", "Resources that wait for what they require.", |kind| kind.held),
    ("in_flight", "Resources that were sent and are not answered yet.", |kind| kind.in_flight),
    ("quarantined", "Resources that it refused, and that have not changed since.", |kind| kind.quarantined),
];

/// Which streams are shown first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    is_fine: bool,
    stream: xds::StreamId,
}

impl Rank {
    fn of(stream: &StreamStatus) -> Self {
        let is_refused = stream.counters.nacks > 0 || stream.kinds.iter().any(|kind| kind.quarantined > 0);
        Rank { is_fine: stream.synced && !stream.lagging && !is_refused, stream: stream.id }
    }
}

/// Appends the streams.
pub(crate) fn write(mut streams: Vec<StreamStatus>, now: Time, text: &mut String) {
    streams.sort_by_key(Rank::of);
    let left_out = streams.len().saturating_sub(SHOWN);
    streams.truncate(SHOWN);
    let _never_fails = write_all(&streams, left_out, now, text);
}

fn write_all(streams: &[StreamStatus], left_out: usize, now: Time, text: &mut String) -> fmt::Result {
    head(text, "streams_left_out", "gauge", "Connected Envoys without series of their own.")?;
    writeln!(text, "switchyard_xds_streams_left_out {left_out}")?;
    let labels: Vec<String> = streams.iter().map(labels).collect();
    for (name, kind, help, value) in OF_STREAM {
        head(text, &format!("stream_{name}"), kind, help)?;
        for (stream, labels) in streams.iter().zip(&labels) {
            writeln!(text, "switchyard_xds_stream_{name}{{{labels}}} {}", value(stream, now))?;
        }
    }
    for (name, help, value) in OF_KIND {
        head(text, &format!("stream_{name}"), "gauge", help)?;
        for (stream, labels) in streams.iter().zip(&labels) {
            for kind in &stream.kinds {
                let of = kind.kind.type_url().rsplit('.').next().unwrap_or_default();
                writeln!(text, "switchyard_xds_stream_{name}{{{labels},type=\"{of}\"}} {}", value(kind))?;
            }
        }
    }
    Ok(())
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) -> fmt::Result {
    writeln!(text, "# HELP switchyard_xds_{name} {help}\n# TYPE switchyard_xds_{name} {kind}")
}

/// A node id is whatever the client says.
fn labels(stream: &StreamStatus) -> String {
    let mut labels = "node=\"".to_owned();
    for character in stream.node.chars().take(NODE_CHARS) {
        match character {
            '\\' => labels.push_str("\\\\"),
            '"' => labels.push_str("\\\""),
            '\n' => labels.push_str("\\n"),
            other => labels.push(other),
        }
    }
    let _never_fails = write!(labels, "\",stream=\"{}\"", stream.id.0);
    labels
}

#[cfg(test)]
mod tests {
    use xds::{Counters, Kind, Mode, Revision, StreamId};

    use super::*;

    fn stream(id: u64, node: &str) -> StreamStatus {
        let kind = KindStatus {
            kind: Kind::ScopedRoute,
            wildcard: true,
            names: 0,
            cursor: Revision::ZERO,
            settled: None,
            in_flight: 3,
            pending: 4,
            held: 5,
            quarantined: 0,
        };
        StreamStatus {
            id: StreamId(id),
            node: node.to_owned(),
            mode: Mode::Delta,
            kinds: vec![kind.clone(), KindStatus { kind: Kind::Cluster, in_flight: 0, pending: 0, held: 0, ..kind }],
            synced: true,
            lagging: false,
            counters: Counters { responses: 7, resources: 8, ..Counters::default() },
            bytes: 900,
            quiet_since: Time(1_000),
        }
    }

    fn written(streams: Vec<StreamStatus>) -> String {
        let mut text = String::new();
        write(streams, Time(3_999), &mut text);
        text
    }

    #[test]
    fn a_stream_has_its_series_and_one_of_each_type() {
        let text = written(vec![stream(1, "envoy-0")]);
        let values: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let expected = "switchyard_xds_streams_left_out 0
switchyard_xds_stream_synced{node=\"envoy-0\",stream=\"1\"} 1
switchyard_xds_stream_lagging{node=\"envoy-0\",stream=\"1\"} 0
switchyard_xds_stream_quiet_seconds{node=\"envoy-0\",stream=\"1\"} 2
switchyard_xds_stream_responses_total{node=\"envoy-0\",stream=\"1\"} 7
switchyard_xds_stream_resources_total{node=\"envoy-0\",stream=\"1\"} 8
switchyard_xds_stream_bytes_total{node=\"envoy-0\",stream=\"1\"} 900
switchyard_xds_stream_nacks_total{node=\"envoy-0\",stream=\"1\"} 0
switchyard_xds_stream_pending{node=\"envoy-0\",stream=\"1\",type=\"ScopedRouteConfiguration\"} 4
switchyard_xds_stream_pending{node=\"envoy-0\",stream=\"1\",type=\"Cluster\"} 0
switchyard_xds_stream_held{node=\"envoy-0\",stream=\"1\",type=\"ScopedRouteConfiguration\"} 5
switchyard_xds_stream_held{node=\"envoy-0\",stream=\"1\",type=\"Cluster\"} 0
switchyard_xds_stream_in_flight{node=\"envoy-0\",stream=\"1\",type=\"ScopedRouteConfiguration\"} 3
switchyard_xds_stream_in_flight{node=\"envoy-0\",stream=\"1\",type=\"Cluster\"} 0
switchyard_xds_stream_quarantined{node=\"envoy-0\",stream=\"1\",type=\"ScopedRouteConfiguration\"} 0
switchyard_xds_stream_quarantined{node=\"envoy-0\",stream=\"1\",type=\"Cluster\"} 0";
        assert_eq!(values.join("\n"), expected);
        for name in values.iter().filter_map(|line| line.split(['{', ' ']).next()) {
            assert!(text.contains(&format!("# HELP {name} ")) && text.contains(&format!("# TYPE {name} ")), "{name}");
        }
    }

    #[test]
    fn a_node_id_cannot_leave_its_label_nor_fill_the_page() {
        let hostile = "\"} 1\nswitchyard_up 0\\".to_owned() + &"ü".repeat(10_000);
        let text = written(vec![stream(1, &hostile)]);
        let expected = "{node=\"\\\"} 1\\nswitchyard_up 0\\\\üü";
        let lines: Vec<&str> = text.lines().filter(|line| line.contains("node=")).collect();
        assert_eq!(lines.len(), OF_STREAM.len() + 2 * OF_KIND.len());
        assert!(lines.iter().all(|line| line.contains(expected) && line.chars().count() < NODE_CHARS + 120), "{text}");
    }

    #[test]
    fn only_so_many_streams_are_shown_and_those_with_trouble_first() {
        let mut streams: Vec<StreamStatus> = (1..=250).map(|id| stream(id, "same")).collect();
        streams[239].lagging = true;
        streams[240].synced = false;
        streams[241].counters.nacks = 1;
        streams[242].kinds[1].quarantined = 1;
        let text = written(streams);
        assert!(text.contains("switchyard_xds_streams_left_out 150\n"), "{text}");
        let shown: Vec<&str> = text.lines().filter(|line| line.starts_with("switchyard_xds_stream_synced{")).collect();
        assert_eq!(shown.len(), SHOWN);
        let ids: Vec<&str> = shown.iter().filter_map(|line| line.split('"').nth(3)).take(6).collect();
        assert_eq!(ids, ["240", "241", "242", "243", "1", "2"]);
        assert!(text.len() < 500_000, "{} bytes", text.len());
    }
}
