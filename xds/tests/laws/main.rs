//! The laws of the server: sessions as plain vectors of requests and responses, random histories against a simulated
//! client, the gate, and both methods over a real socket.

mod gate;
mod peer;
mod random;
mod session;
mod socket;
