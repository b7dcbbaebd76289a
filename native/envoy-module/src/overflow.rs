//! Where requests go that a pool does not take: elsewhere, if its settings say so. For [`crate::stream`].
//!
//! A header tells Envoy's routes which destination is meant. A client must not be able to choose it, so its own is taken
//! out before anything else happens.

use crate::abi::callbacks::{Headers, Stream};

/// The request header by which routes know requests that overflowed.
const HEADER: &str = "x-headrace-overflow";

/// Takes out what a client wrote into the header, and has the route chosen without it.
pub fn forget_the_client_s(stream: Stream<'_>) {
    if stream.header(Headers::Request, HEADER).is_some() {
        stream.set_header(Headers::Request, HEADER, None);
        stream.choose_route_anew();
    }
}
