//! The laws of the server: sessions as plain vectors of requests and responses, random histories against a simulated
//! client, the gate, and both methods over a real socket, and clients that say anything.

#![expect(clippy::unwrap_used, reason = "a failure of what surrounds a law is a failed test")]

mod csds;
mod demand;
mod fuzz;
mod gate;
mod hostile;
mod lifetime;
mod peer;
mod random;
mod refusals;
mod session;
mod socket;
