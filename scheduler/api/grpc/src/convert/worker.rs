//! What workers of the data plane are told and say: `switchyard.worker.v1` and the words of `domain`.

use std::net::IpAddr;

use domain::{Role, Shard, WorkerId, WorkerName};
use messages::worker as wire;

use super::Invalid;

/// Most shards that a hello may name: far more partitions than an installation has.
const MOST_SHARDS: usize = 10_000;

/// A worker that said hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Who it is.
    pub worker: WorkerId,
    /// Where Envoy reaches it, for pipeline gateways.
    pub address: Option<(IpAddr, u16)>,
    /// Shards that it still works on.
    pub held: Vec<Shard>,
}

/// The worker in a message, with everything that is wrong with it.
pub fn hello(hello: &wire::Hello) -> Result<Hello, Invalid> {
    let mut invalid = Invalid::default();
    let role = role(hello.role());
    if role.is_none() {
        invalid.add("hello.role", format!("{} is no role", hello.role));
    }
    let name = WorkerName::parse(&hello.name);
    if let Err(error) = &name {
        invalid.add("hello.name", error);
    }
    if hello.held.len() > MOST_SHARDS {
        invalid.add("hello.held", format!("has {} shards, at most {MOST_SHARDS} are accepted", hello.held.len()));
    }
    let mut address = None;
    if role == Some(Role::PipelineGateway) {
        match (hello.host.parse::<IpAddr>(), u16::try_from(hello.port)) {
            (Ok(host), Ok(port)) if port > 0 && !host.is_unspecified() => address = Some((host, port)),
            (Ok(host), Ok(_)) if host.is_unspecified() => invalid.add("hello.host", "nobody can connect to it"),
            (Ok(_), _) => invalid.add("hello.port", format!("{} is no port", hello.port)),
            (Err(_), _) => invalid.add("hello.host", format!("{:?} is no IP address", hello.host)),
        }
    }
    match (role, name) {
        (Some(role), Ok(name)) => {
            let held = hello.held.iter().map(shard).collect();
            invalid.or(Hello { worker: WorkerId { role, name }, address, held })
        }
        _ => Err(invalid),
    }
}

/// A shard in a message.
#[must_use]
pub fn shard(shard: &wire::Shard) -> Shard {
    Shard { partition: shard.partition, epoch: shard.epoch }
}

/// The way out of [`shard`].
#[must_use]
pub fn shard_wire(shard: Shard) -> wire::Shard {
    wire::Shard { partition: shard.partition, epoch: shard.epoch }
}

/// A role by its number.
#[must_use]
pub fn role(role: wire::Role) -> Option<Role> {
    match role {
        wire::Role::Unspecified => None,
        wire::Role::PipelineGateway => Some(Role::PipelineGateway),
        wire::Role::Engine => Some(Role::Engine),
        wire::Role::ModelGateway => Some(Role::ModelGateway),
    }
}

/// The way out of [`role`].
#[must_use]
pub fn role_wire(role: Role) -> wire::Role {
    match role {
        Role::PipelineGateway => wire::Role::PipelineGateway,
        Role::Engine => wire::Role::Engine,
        Role::ModelGateway => wire::Role::ModelGateway,
    }
}

/// Most entries of one piece of a snapshot; with the limit on definitions a piece stays below 32 MiB.
pub const PIECE: usize = 100;

/// A snapshot in pieces, each small enough for one message.
#[must_use]
pub fn pieces(
    revision: u64,
    partitions: u32,
    pipelines: Vec<wire::Pipeline>,
    models: Vec<wire::Model>,
) -> Vec<wire::Desired> {
    let (mut pipelines, mut models) = (pipelines.into_iter().peekable(), models.into_iter().peekable());
    let mut pieces = Vec::new();
    loop {
        let first = pieces.is_empty();
        let piece = wire::Desired {
            revision,
            first,
            more: false,
            pipelines: pipelines.by_ref().take(PIECE).collect(),
            // A model is a name.
            models: models.by_ref().take(100 * PIECE).collect(),
            partitions: if first { partitions } else { 0 },
        };
        pieces.push(piece);
        if pipelines.peek().is_none() && models.peek().is_none() {
            break;
        }
    }
    let last = pieces.len() - 1;
    pieces.iter_mut().take(last).for_each(|piece| piece.more = true);
    pieces
}

#[cfg(test)]
mod tests {
    use messages::worker as wire;

    #[test]
    fn everything_that_is_wrong_with_a_hello_is_named() {
        let good = wire::Hello {
            role: wire::Role::PipelineGateway.into(),
            name: "gateway-0".into(),
            host: "127.0.0.1".into(),
            port: 9010,
            held: vec![wire::Shard { partition: 1, epoch: 2 }],
        };
        assert_eq!(super::hello(&good).expect("valid").address, Some(("127.0.0.1".parse().expect("an address"), 9010)));
        let cases = [
            (wire::Hello { role: 9, ..good.clone() }, "hello.role: 9 is no role"),
            (wire::Hello { name: "-".into(), ..good.clone() }, "hello.name: worker name"),
            (wire::Hello { host: "localhost".into(), ..good.clone() }, "hello.host: \"localhost\" is no IP address"),
            (wire::Hello { host: "0.0.0.0".into(), ..good.clone() }, "hello.host: nobody can connect"),
            (wire::Hello { port: 0, ..good.clone() }, "hello.port: 0 is no port"),
            (wire::Hello { port: 70_000, ..good }, "hello.port: 70000 is no port"),
        ];
        for (bad, expected) in cases {
            let error = super::hello(&bad).expect_err("invalid").to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_snapshot_comes_in_pieces_of_which_the_last_says_so() {
        let pipeline = |index: usize| wire::Pipeline { name: format!("p{index}"), ..wire::Pipeline::default() };
        for count in [0, 1, super::PIECE, super::PIECE + 1, 3 * super::PIECE] {
            let pieces = super::pieces(7, 8, (0..count).map(pipeline).collect(), Vec::new());
            assert_eq!(pieces.len(), count.div_ceil(super::PIECE).max(1));
            assert!(pieces.iter().enumerate().all(|(at, piece)| piece.first == (at == 0)));
            assert!(pieces.iter().enumerate().all(|(at, piece)| piece.more == (at + 1 < pieces.len())));
            assert_eq!(pieces.iter().map(|piece| piece.pipelines.len()).sum::<usize>(), count);
        }
    }
}
