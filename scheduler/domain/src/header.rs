//! Names of the request and response headers that clients, Envoy and the agents agree on.
//!
//! Rule: `spec/data-plane.md` §0.4.

/// Chooses the route; set by the client, or by Envoy from the path or the message.
pub const MODEL: &str = "seldon-model";
/// `<model>_<version>`; set by Envoy only, a client's own value is overwritten.
pub const INTERNAL_MODEL: &str = "seldon-internal-model";
/// `:<model>_<version>:`; in responses, and in requests that want the same candidate again.
pub const ROUTE: &str = "x-seldon-route";
/// In an agent's answer: nothing was done, and another replica may do it. Never what an inference server says.
pub const REFUSED: &str = "switchyard-refused";
/// Identity of a request in logs, traces and records; free text.
pub const REQUEST_ID: &str = "x-request-id";
