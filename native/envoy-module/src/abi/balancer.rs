//! The hooks of the load-balancing policy.

use super::balancing::{Balancing, Choosing};
use super::{guarded, Envoy, EnvoyBuffer, Ours};
use crate::balancer::{Balancer, Choice};
use crate::pools::{pool_of, PoolState};
use crate::settings::PoolSettings;
use std::ptr;
use std::sync::Arc;

/// # Safety
/// Envoy calls it on the main thread with buffers that are valid during the call.
#[no_mangle]
unsafe extern "C" fn envoy_dynamic_module_on_lb_config_new(
    _config: Envoy,
    name: EnvoyBuffer,
    settings: EnvoyBuffer,
) -> Ours {
    guarded(ptr::null(), || {
        // SAFETY: both buffers are Envoy's for this call, and only copies are kept.
        let (name, settings) = unsafe { (name.bytes(), settings.bytes()) };
        let parsed = match name {
            b"pool" => PoolSettings::parse(settings),
            other => Err(format!("no policy is called {:?}", String::from_utf8_lossy(other))),
        };
        match parsed {
            Ok(settings) => Box::into_raw(Box::new(pool_of(settings))) as Ours,
            Err(problem) => {
                eprintln!("headrace module: policy pool: {problem}");
                ptr::null()
            }
        }
    })
}

/// # Safety
/// `config` is what `config_new` returned, and Envoy uses it no more.
#[no_mangle]
unsafe extern "C" fn envoy_dynamic_module_on_lb_config_destroy(config: Ours) {
    guarded((), || {
        if !config.is_null() {
            // SAFETY: the box made by `config_new`, given back exactly once.
            drop(unsafe { Box::from_raw(config as *mut Arc<PoolState>) });
        }
    });
}

/// # Safety
/// `config` is what `config_new` returned; `balancer` is alive.
#[no_mangle]
unsafe extern "C" fn envoy_dynamic_module_on_lb_new(config: Ours, balancer: Envoy) -> Ours {
    guarded(ptr::null(), || {
        // SAFETY: Envoy keeps the configuration longer than its balancers, and only shared references are made to it.
        let (pool, envoy) = unsafe { (&*config.cast::<Arc<PoolState>>(), Balancing::new(balancer)) };
        Box::into_raw(Box::new(Balancer::new(pool.clone(), &envoy))) as Ours
    })
}

/// # Safety
/// `ours` is what `lb_new` returned, and Envoy uses it no more.
#[no_mangle]
unsafe extern "C" fn envoy_dynamic_module_on_lb_destroy(ours: Ours) {
    guarded((), || {
        if !ours.is_null() {
            // SAFETY: the box made by `lb_new`, given back exactly once.
            drop(unsafe { Box::from_raw(ours as *mut Balancer) });
        }
    });
}

/// # Safety
/// `ours` is what `lb_new` returned; `balancer` is alive.
#[no_mangle]
unsafe extern "C" fn envoy_dynamic_module_on_lb_on_host_membership_update(
    balancer: Envoy,
    ours: Ours,
    _added: usize,
    _removed: usize,
) {
    guarded((), || {
        // SAFETY: the box made by `lb_new`, not yet destroyed; only shared references are made to it.
        let (ours, envoy) = unsafe { (&*ours.cast::<Balancer>(), Balancing::new(balancer)) };
        ours.update(&envoy);
    });
}

/// # Safety
/// `ours` is what `lb_new` returned; `balancer` and `context` (which may be null) are valid during the call, and the
/// results point to writable places.
#[no_mangle]
unsafe extern "C" fn envoy_dynamic_module_on_lb_choose_host(
    balancer: Envoy,
    ours: Ours,
    context: Envoy,
    priority: *mut u32,
    index: *mut u32,
) -> bool {
    // SAFETY: as promised by Envoy; only shared references are made to our balancer.
    let (ours, envoy, request) = unsafe {
        (
            &*ours.cast::<Balancer>(),
            Balancing::new(balancer),
            Choosing::new(context),
        )
    };
    let chosen = match guarded(Choice::Unknown, || ours.choose(&envoy, &request)) {
        Choice::Host(priority, index) => Some((priority, index)),
        Choice::Nowhere => None,
        Choice::Unknown => guarded(None, || ours.least_loaded(&envoy)),
    };
    match chosen {
        Some((chosen_priority, chosen_index)) => {
            // SAFETY: Envoy passes pointers to two integers of its own.
            unsafe {
                *priority = chosen_priority;
                *index = chosen_index;
            }
            true
        }
        None => false,
    }
}
