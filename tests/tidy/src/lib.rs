//! The rules of this repository that a machine can check, as tests. Nothing here runs in a product.
