//! What Envoy offers to load-balancing policies, as far as it is used here, behind safe handles that live no longer than a
//! hook's call.

use super::{Envoy, EnvoyBuffer, ModuleBuffer};
use std::marker::PhantomData;
use std::os::raw::c_int;
use std::ptr;

offered! {
    fn envoy_dynamic_module_callback_lb_get_cluster_name(balancer: Envoy, name: *mut EnvoyBuffer);
    fn envoy_dynamic_module_callback_lb_get_priority_set_size(balancer: Envoy) -> usize;
    fn envoy_dynamic_module_callback_lb_get_hosts_count(balancer: Envoy, priority: u32) -> usize;
    fn envoy_dynamic_module_callback_lb_get_host_address(balancer: Envoy, priority: u32, index: usize, address: *mut EnvoyBuffer) -> bool;
    fn envoy_dynamic_module_callback_lb_get_healthy_hosts_count(balancer: Envoy, priority: u32) -> usize;
    fn envoy_dynamic_module_callback_lb_get_healthy_host_address(balancer: Envoy, priority: u32, index: usize, address: *mut EnvoyBuffer) -> bool;
    fn envoy_dynamic_module_callback_lb_get_host_stat(balancer: Envoy, priority: u32, index: usize, stat: c_int) -> u64;
    fn envoy_dynamic_module_callback_lb_context_get_downstream_header(context: Envoy, key: ModuleBuffer, value: *mut EnvoyBuffer, index: usize, count: *mut usize) -> bool;
}

/// A worker's balancer of one cluster, for the time of one hook.
pub struct Balancing<'call> {
    envoy: Envoy,
    call: PhantomData<&'call ()>,
}

impl Balancing<'_> {
    /// # Safety
    /// `envoy` is the balancer that Envoy passed to the hook now running.
    pub(super) unsafe fn new(envoy: Envoy) -> Self {
        Balancing {
            envoy,
            call: PhantomData,
        }
    }

    /// The cluster's name.
    pub fn cluster(&self) -> String {
        let mut name = EnvoyBuffer::EMPTY;
        // SAFETY: the balancer is alive, the buffer is ours, and the bytes are copied at once.
        unsafe {
            envoy_dynamic_module_callback_lb_get_cluster_name(self.envoy, &mut name);
            String::from_utf8_lossy(name.bytes()).into_owned()
        }
    }

    /// How many priorities the endpoints have.
    pub fn priorities(&self) -> u32 {
        // SAFETY: the balancer is alive.
        unsafe { envoy_dynamic_module_callback_lb_get_priority_set_size(self.envoy) as u32 }
    }

    /// Addresses of all hosts of a priority, in Envoy's order.
    pub fn hosts(&self, priority: u32) -> Vec<String> {
        // SAFETY: the balancer is alive.
        let count = unsafe { envoy_dynamic_module_callback_lb_get_hosts_count(self.envoy, priority) };
        let address = |index| {
            let mut address = EnvoyBuffer::EMPTY;
            // SAFETY: the balancer is alive, the buffer is ours, and the bytes are copied at once.
            unsafe {
                let _ = envoy_dynamic_module_callback_lb_get_host_address(self.envoy, priority, index, &mut address);
                String::from_utf8_lossy(address.bytes()).into_owned()
            }
        };
        (0..count).map(address).collect()
    }

    /// Addresses of the healthy hosts of a priority, in Envoy's order.
    pub fn healthy_hosts(&self, priority: u32) -> Vec<String> {
        let address = |index| {
            let mut address = EnvoyBuffer::EMPTY;
            // SAFETY: the balancer is alive, the buffer is ours, and the bytes are copied at once.
            unsafe {
                let _ = envoy_dynamic_module_callback_lb_get_healthy_host_address(
                    self.envoy,
                    priority,
                    index,
                    &mut address,
                );
                String::from_utf8_lossy(address.bytes()).into_owned()
            }
        };
        (0..self.healthy_count(priority)).map(address).collect()
    }

    /// How many hosts of a priority are healthy.
    pub fn healthy_count(&self, priority: u32) -> usize {
        // SAFETY: the balancer is alive.
        unsafe { envoy_dynamic_module_callback_lb_get_healthy_hosts_count(self.envoy, priority) }
    }

    /// Requests in flight on a host (its index among all), of all workers, whoever sent them.
    pub fn active_requests(&self, priority: u32, host: usize) -> u64 {
        const ACTIVE_REQUESTS: c_int = 7;
        // SAFETY: the balancer is alive; Envoy answers 0 for a host that is not there.
        unsafe { envoy_dynamic_module_callback_lb_get_host_stat(self.envoy, priority, host, ACTIVE_REQUESTS) }
    }
}

/// The request that a balancer chooses for.
pub struct Choosing<'call> {
    context: Envoy,
    call: PhantomData<&'call ()>,
}

impl Choosing<'_> {
    /// # Safety
    /// `context` is what Envoy passed to the hook now running; null is allowed.
    pub(super) unsafe fn new(context: Envoy) -> Self {
        Choosing {
            context,
            call: PhantomData,
        }
    }

    /// Calls `read` with the first value of a request header.
    pub fn header<R>(&self, name: &str, read: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let mut value = EnvoyBuffer::EMPTY;
        let key = ModuleBuffer::of(name.as_bytes());
        // SAFETY: the context is Envoy's for this call (null is answered with false); the bytes are read at once.
        unsafe {
            let there = !self.context.is_null()
                && envoy_dynamic_module_callback_lb_context_get_downstream_header(
                    self.context,
                    key,
                    &mut value,
                    0,
                    ptr::null_mut(),
                );
            if there {
                Some(read(value.bytes()))
            } else {
                None
            }
        }
    }
}
