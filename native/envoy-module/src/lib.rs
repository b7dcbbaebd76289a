//! Headrace inside Envoy: the native module that every proxy of the mesh loads.
//!
//! It holds one filter so far, `noop`, which lets every request pass: it proves on each machine that the module
//! builds, loads and is called, before anything depends on it. Envoy calls it through the C functions of [`abi`], the
//! only place with unsafe code; everything else is safe Rust that tests call directly.

#![deny(unsafe_code, unsafe_op_in_unsafe_fn)]
#![warn(missing_docs, clippy::all, clippy::undocumented_unsafe_blocks)]

#[allow(unsafe_code)]
mod abi;
mod filter;
