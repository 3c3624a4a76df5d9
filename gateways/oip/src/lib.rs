//! oip
