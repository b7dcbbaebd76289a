//! What surrounds a request: who the client is, what other filters know of it, and the choice of its route.

use super::callbacks::Stream;
use super::{Envoy, EnvoyBuffer, ModuleBuffer};
use std::os::raw::c_int;

offered! {
    fn envoy_dynamic_module_callback_http_filter_get_attribute_string(stream: Envoy, attribute: c_int, value: *mut EnvoyBuffer) -> bool;
    fn envoy_dynamic_module_callback_http_get_filter_state_bytes(stream: Envoy, key: ModuleBuffer, value: *mut EnvoyBuffer) -> bool;
    fn envoy_dynamic_module_callback_http_clear_route_cache(stream: Envoy);
}

/// Attributes by their numbers in the ABI v0.2.0.
const URI_SAN_OF_PEER_CERTIFICATE: c_int = 37;

impl Stream<'_> {
    /// The first URI among the names of the client's certificate, as the listener's TLS has accepted it.
    pub fn peer_uri(&self) -> Option<Vec<u8>> {
        // SAFETY: the stream is alive, the buffer is ours.
        self.copied(|value| unsafe {
            envoy_dynamic_module_callback_http_filter_get_attribute_string(
                self.envoy,
                URI_SAN_OF_PEER_CERTIFICATE,
                value,
            )
        })
    }

    /// A text that another filter keeps with the stream under this name.
    pub fn filter_state(&self, name: &str) -> Option<Vec<u8>> {
        let key = ModuleBuffer::of(name.as_bytes());
        // SAFETY: the stream is alive, the buffers live during the call.
        self.copied(|value| unsafe {
            envoy_dynamic_module_callback_http_get_filter_state_bytes(self.envoy, key, value)
        })
    }

    /// Has the route chosen anew, by the headers as they are now, when somebody asks for it next.
    pub fn choose_route_anew(&self) {
        // SAFETY: the stream is alive.
        unsafe { envoy_dynamic_module_callback_http_clear_route_cache(self.envoy) }
    }
}
