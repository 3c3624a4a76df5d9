//! A response on the wire, piece by piece: the bodies of resources are shared with all other streams until the moment they
//! are copied into a piece, so that a first answer of many megabytes costs a stream little more than a piece.
//!
//! The fields and their numbers are those of `envoy.service.discovery.v3`; tests decode what is written here with the
//! generated types.

use bytes::{BufMut, Bytes, BytesMut};

use crate::message::{Mode, Response};
use crate::resource::{Name, Resource};

/// Bytes that are handed out together, and what is over of the last body.
const PIECE_BYTES: usize = 64 << 10;

/// The header of a gRPC message: no compression, and its length in four bytes.
const FRAME_BYTES: usize = 5;

/// `version_info` of both responses.
const VERSION: u32 = 1;
/// `resources` of both.
const RESOURCES: u32 = 2;
/// `type_url` of both.
const TYPE_URL: u32 = 4;
/// `nonce` of both.
const NONCE: u32 = 5;
/// `removed_resources` of the delta response.
const REMOVED: u32 = 6;
/// Of `Resource`.
const RESOURCE_VERSION: u32 = 1;
const RESOURCE_ANY: u32 = 2;
const RESOURCE_NAME: u32 = 3;
/// Of `Any`.
const ANY_TYPE_URL: u32 = 1;
const ANY_VALUE: u32 = 2;

/// A response that is being written.
#[derive(Debug)]
pub(crate) struct Encoding {
    mode: Mode,
    response: Response,
    version: String,
    nonce: String,
    message_bytes: usize,
    next: Next,
}

/// What is written next.
#[derive(Clone, Copy, Debug)]
enum Next {
    Head,
    Resource(usize),
    Tail,
    Nothing,
}

impl Encoding {
    pub(crate) fn new(mode: Mode, response: Response) -> Self {
        let (version, nonce) = (response.version.to_string(), response.nonce.to_string());
        let mut encoding = Encoding { mode, response, version, nonce, message_bytes: 0, next: Next::Head };
        encoding.message_bytes = encoding.measured();
        encoding
    }

    /// Length of the message.
    pub(crate) fn message_bytes(&self) -> usize {
        self.message_bytes
    }

    fn measured(&self) -> usize {
        let resources = self.response.resources.iter().map(|resource| field(self.resource(resource)));
        let removed = self.response.removed.iter().map(|name| field(name.as_str().len()));
        let strings = [self.version.len(), self.type_url().len(), self.nonce.len()].map(field);
        resources.chain(removed).chain(strings).sum()
    }

    fn type_url(&self) -> &'static str {
        self.response.kind.type_url()
    }

    /// Length of one of `resources`.
    fn resource(&self, resource: &Resource) -> usize {
        let any = self.any(resource);
        match self.mode {
            Mode::Sotw => any,
            Mode::Delta => {
                let version = field(resource.version_text().len());
                version + field(any) + field(resource.name().as_str().len())
            }
        }
    }

    fn any(&self, resource: &Resource) -> usize {
        field(self.type_url().len()) + field(resource.body().len())
    }

    /// The next piece, until there is none.
    pub(crate) fn piece(&mut self) -> Option<Bytes> {
        let mut piece = BytesMut::new();
        loop {
            match self.next {
                Next::Head => {
                    piece.reserve(PIECE_BYTES.min(FRAME_BYTES + self.message_bytes));
                    piece.put_u8(0);
                    piece.put_u32(u32::try_from(self.message_bytes).unwrap_or(u32::MAX));
                    put(&mut piece, VERSION, self.version.as_bytes());
                    self.next = Next::Resource(0);
                }
                Next::Resource(at) => match self.response.resources.get(at) {
                    Some(resource) => {
                        self.put_before_body(&mut piece, resource);
                        self.next = Next::Resource(at + 1);
                        piece.put_slice(resource.body());
                    }
                    None => self.next = Next::Tail,
                },
                Next::Tail => {
                    put(&mut piece, TYPE_URL, self.type_url().as_bytes());
                    put(&mut piece, NONCE, self.nonce.as_bytes());
                    self.response
                        .removed
                        .iter()
                        .for_each(|name: &Name| put(&mut piece, REMOVED, name.as_str().as_bytes()));
                    self.next = Next::Nothing;
                }
                Next::Nothing => return (!piece.is_empty()).then(|| piece.freeze()),
            }
            if piece.len() >= PIECE_BYTES {
                return Some(piece.freeze());
            }
        }
    }

    /// Everything of a resource up to the bytes of its body. The order of fields is free, and so the body is the last.
    fn put_before_body(&self, piece: &mut BytesMut, resource: &Resource) {
        put_head(piece, RESOURCES, self.resource(resource));
        if self.mode == Mode::Delta {
            put(piece, RESOURCE_VERSION, resource.version_text().as_bytes());
            put(piece, RESOURCE_NAME, resource.name().as_str().as_bytes());
            put_head(piece, RESOURCE_ANY, self.any(resource));
        }
        put(piece, ANY_TYPE_URL, self.type_url().as_bytes());
        put_head(piece, ANY_VALUE, resource.body().len());
    }
}

/// Length of a field with its tag and its length. All field numbers here take one byte.
fn field(bytes: usize) -> usize {
    1 + prost::length_delimiter_len(bytes) + bytes
}

fn put_head(to: &mut BytesMut, number: u32, bytes: usize) {
    const LENGTH_DELIMITED: u32 = 2;
    to.put_u8(u8::try_from(number << 3 | LENGTH_DELIMITED).unwrap_or(u8::MAX));
    // A buffer that grows has room for it.
    let _always_room = prost::encode_length_delimiter(bytes, to);
}

fn put(to: &mut BytesMut, number: u32, bytes: &[u8]) {
    put_head(to, number, bytes.len());
    to.put_slice(bytes);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse};
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::message::{Nonce, VersionInfo};
    use crate::resource::{Kind, Revision};

    prop_compose! {
        fn resource()(
            name in ".{0,20}", body in prop::collection::vec(any::<u8>(), 0..300), times in 1_usize..1_000, given in prop::option::of(".{0,9}"),
        ) -> Arc<Resource> {
            let resource = Resource::new(Kind::ScopedRoute, name, body.repeat(times).into());
            Arc::new(match given {
                Some(version) => resource.versioned(&version),
                None => resource,
            })
        }
    }

    /// The message, from its pieces.
    fn written(mode: Mode, response: &Response) -> Bytes {
        let mut encoding = Encoding::new(mode, response.clone());
        let mut all = BytesMut::new();
        let largest = response.resources.iter().map(|resource| resource.body().len()).max().unwrap_or(0);
        while let Some(piece) = encoding.piece() {
            assert!(!piece.is_empty() && piece.len() < PIECE_BYTES + largest + 1_000, "{}", piece.len());
            all.extend_from_slice(&piece);
        }
        let all = all.freeze();
        assert_eq!(all[0], 0, "not compressed");
        assert_eq!(
            u32::from_be_bytes(all[1..FRAME_BYTES].try_into().expect("four bytes")) as usize,
            all.len() - FRAME_BYTES
        );
        all.slice(FRAME_BYTES..)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_written_is_read_by_the_generated_types(
            resources in prop::collection::vec(resource(), 0..20), removed in prop::collection::vec(".{0,20}", 0..9), nonce in any::<u64>(),
        ) {
            let removed: Vec<Name> = removed.into_iter().map(Name::from).collect();
            let version = VersionInfo::Revision(Revision(7));
            let mut response = Response { kind: Kind::ScopedRoute, nonce: Nonce(nonce), version, resources: resources.into(), removed };
            let delta = DeltaDiscoveryResponse::decode(written(Mode::Delta, &response)).expect("a message");
            prop_assert_eq!((delta.system_version_info, delta.nonce), ("7".to_owned(), nonce.to_string()));
            prop_assert_eq!(&delta.type_url, Kind::ScopedRoute.type_url());
            prop_assert_eq!(delta.removed_resources, response.removed.iter().map(Name::to_string).collect::<Vec<_>>());
            prop_assert_eq!(delta.resources.len(), response.resources.len());
            for (read, resource) in delta.resources.iter().zip(response.resources.iter()) {
                prop_assert_eq!(&read.name, resource.name().as_str());
                prop_assert_eq!(&read.version, &*resource.version_text());
                let any = read.resource.as_ref().expect("a body");
                prop_assert_eq!((any.type_url.as_str(), &any.value[..]), (Kind::ScopedRoute.type_url(), &resource.body()[..]));
            }
            response.removed.clear();
            response.version = VersionInfo::Given("v1".into());
            let sotw = DiscoveryResponse::decode(written(Mode::Sotw, &response)).expect("a message");
            prop_assert_eq!((sotw.version_info, sotw.nonce), ("v1".to_owned(), nonce.to_string()));
            let bodies = response.resources.iter().map(|resource| resource.body().to_vec());
            prop_assert_eq!(sotw.resources.into_iter().map(|any| any.value).collect::<Vec<_>>(), bodies.collect::<Vec<_>>());
        }
    }
}
