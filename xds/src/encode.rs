//! A response on the wire, piece by piece: the bodies of resources are shared with all other streams until the moment they
//! are copied into a piece, and there are few pieces at a time, so that a first answer of many megabytes costs a stream little
//! more than those.
//!
//! The fields and their numbers are those of `envoy.service.discovery.v3`; tests decode what is written here with the
//! generated types.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::task::AtomicWaker;

use crate::message::{Mode, Response};
use crate::resource::Resource;

/// Bytes that are handed out together, unless one body is longer.
const PIECE_BYTES: usize = 64 << 10;

/// Pieces of one stream that are not written to its socket yet, besides the last one of each response. What the socket takes is the
/// kernel's.
const PIECES_MAX: usize = 2;

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
    /// Bytes that are not handed out yet.
    left: usize,
    next: Next,
}

/// What is written next.
#[derive(Clone, Copy, Debug)]
enum Next {
    Head,
    Resource(usize),
    Removed(usize),
    Tail,
    Nothing,
}

/// Counts the pieces of a stream that the transport has.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    pieces: AtomicUsize,
    /// Of who waits until it has written one.
    waker: AtomicWaker,
}

impl Flow {
    /// Ready when another piece may be handed out.
    pub(crate) fn poll_room(&self, context: &Context<'_>) -> Poll<()> {
        if self.pieces.load(Ordering::Acquire) < PIECES_MAX {
            return Poll::Ready(());
        }
        self.waker.register(context.waker());
        // One may have been written since.
        match self.pieces.load(Ordering::Acquire) < PIECES_MAX {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// The same bytes, counted until the last of them is dropped.
    pub(crate) fn counted(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        self.pieces.fetch_add(1, Ordering::AcqRel);
        Bytes::from_owner(Counted { bytes, flow: Arc::clone(self) })
    }
}

struct Counted {
    bytes: Bytes,
    flow: Arc<Flow>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        // Freed first, because who is woken makes the next one.
        self.bytes = Bytes::new();
        self.flow.pieces.fetch_sub(1, Ordering::AcqRel);
        self.flow.waker.wake();
    }
}

impl Encoding {
    pub(crate) fn new(mode: Mode, response: Response) -> Self {
        let (version, nonce) = (response.version.to_string(), response.nonce.to_string());
        let mut encoding = Encoding { mode, response, version, nonce, message_bytes: 0, left: 0, next: Next::Head };
        encoding.message_bytes = encoding.measured();
        encoding.left = FRAME_BYTES + encoding.message_bytes;
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
        let needed = self.needed()?;
        let mut piece = BytesMut::with_capacity(PIECE_BYTES.max(needed).min(self.left));
        while let Some(needed) = self.needed()
            && (piece.is_empty() || piece.len() + needed <= PIECE_BYTES)
        {
            self.next = self.put_next(&mut piece);
        }
        self.left = self.left.saturating_sub(piece.len());
        Some(piece.freeze())
    }

    pub(crate) fn is_over(&self) -> bool {
        matches!(self.next, Next::Nothing)
    }

    /// Length of what is written next; `None` at the end.
    fn needed(&self) -> Option<usize> {
        let Response { resources, removed, .. } = &self.response;
        Some(match self.next {
            Next::Head => FRAME_BYTES + field(self.version.len()),
            Next::Resource(at) => resources.get(at).map_or(0, |resource| field(self.resource(resource))),
            Next::Removed(at) => removed.get(at).map_or(0, |name| field(name.as_str().len())),
            Next::Tail => field(self.type_url().len()) + field(self.nonce.len()),
            Next::Nothing => return None,
        })
    }

    fn put_next(&self, piece: &mut BytesMut) -> Next {
        match self.next {
            Next::Head => {
                piece.put_u8(0);
                piece.put_u32(u32::try_from(self.message_bytes).unwrap_or(u32::MAX));
                put(piece, VERSION, self.version.as_bytes());
                Next::Resource(0)
            }
            Next::Resource(at) => match self.response.resources.get(at) {
                Some(resource) => {
                    self.put_before_body(piece, resource);
                    piece.put_slice(resource.body());
                    Next::Resource(at + 1)
                }
                None => Next::Removed(0),
            },
            Next::Removed(at) => match self.response.removed.get(at) {
                Some(name) => {
                    put(piece, REMOVED, name.as_str().as_bytes());
                    Next::Removed(at + 1)
                }
                None => Next::Tail,
            },
            Next::Tail => {
                put(piece, TYPE_URL, self.type_url().as_bytes());
                put(piece, NONCE, self.nonce.as_bytes());
                Next::Nothing
            }
            Next::Nothing => Next::Nothing,
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
pub(crate) fn field(bytes: usize) -> usize {
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
    use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse};
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use std::task::{Wake, Waker};

    use crate::message::{Nonce, VersionInfo};
    use crate::resource::{Kind, Name, Revision};

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
        let largest = response.resources.iter().map(|resource| encoding.resource(resource) + 8).max().unwrap_or(0);
        while let Some(piece) = encoding.piece() {
            assert!(!piece.is_empty() && piece.len() <= PIECE_BYTES.max(largest), "{}", piece.len());
            all.extend_from_slice(&piece);
        }
        assert_eq!(encoding.left, 0);
        let all = all.freeze();
        assert_eq!(all[0], 0, "not compressed");
        assert_eq!(
            u32::from_be_bytes(all[1..FRAME_BYTES].try_into().expect("four bytes")) as usize,
            all.len() - FRAME_BYTES
        );
        all.slice(FRAME_BYTES..)
    }

    #[test]
    fn few_pieces_are_with_the_transport_and_each_that_is_written_lets_the_next_one_go() {
        let flow = Arc::new(Flow::default());
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(Arc::clone(&wakes));
        let context = Context::from_waker(&waker);
        let mut pieces: Vec<Bytes> = Vec::new();
        while flow.poll_room(&context).is_ready() {
            pieces.push(flow.counted(Bytes::from_static(b"piece")));
        }
        assert_eq!((pieces.len(), wakes.0.load(Ordering::SeqCst)), (PIECES_MAX, 0));
        // The transport cuts a piece into frames.
        let mut piece = pieces.remove(0);
        let frame = piece.split_to(2);
        drop(piece);
        assert!(flow.poll_room(&context).is_pending() && &frame[..] == b"pi");
        drop(frame);
        assert_eq!(wakes.0.load(Ordering::SeqCst), 1);
        assert!(flow.poll_room(&context).is_ready());
    }

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
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
