//! A request's body in one piece, wherever Envoy has its parts.

use crate::abi::callbacks::{Body, Stream};
use std::cell::RefCell;

thread_local! {
    /// Room for bodies that come in several pieces, kept: new memory for each would cost more than reading them.
    static ROOM: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}
const MOST_ROOM: usize = 1 << 20;

/// Shows a body in one piece, copying only where Envoy has it in several.
pub fn read_body<R>(stream: Stream<'_>, kept: bool, received: bool, read: impl FnOnce(&[u8]) -> R) -> R {
    let mut whole = ROOM.with(RefCell::take);
    whole.clear();
    if kept {
        stream.body(Body::BufferedRequest, |pieces| {
            pieces.iter().for_each(|piece| whole.extend_from_slice(piece))
        });
    }
    let answer = if received {
        stream.body(Body::ReceivedRequest, |pieces| match pieces {
            [single] if whole.is_empty() => read(single),
            _ => {
                pieces.iter().for_each(|piece| whole.extend_from_slice(piece));
                read(&whole)
            }
        })
    } else {
        read(&whole)
    };
    if whole.capacity() <= MOST_ROOM {
        ROOM.with(|room| room.replace(whole));
    }
    answer
}
