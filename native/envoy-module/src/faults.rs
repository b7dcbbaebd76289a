//! Bugs on purpose, for the test that a bug costs nobody a request; built only with the feature `faults`.
//!
//! `HEADRACE_FAULT=PLACE:TIMES,PLACE:TIMES` panics at each place so many times. The places are the calls of [`at`].

/// Panics here, if the test wants that.
#[cfg(feature = "faults")]
pub fn at(place: &str) {
    use crate::pools::locked;
    use std::collections::HashMap;
    use std::sync::Mutex;

    static LEFT: Mutex<Option<HashMap<String, u32>>> = Mutex::new(None);
    let read = || {
        let wanted = std::env::var("HEADRACE_FAULT").unwrap_or_default();
        let faults = wanted.split(',').filter_map(|fault| {
            let (place, times) = fault.split_once(':')?;
            Some((place.to_string(), times.parse().ok()?))
        });
        faults.collect()
    };
    let left = locked(&LEFT)
        .get_or_insert_with(read)
        .get_mut(place)
        .map_or(0, |left| std::mem::replace(left, left.saturating_sub(1)));
    assert!(left == 0, "on purpose, at {place}");
}

/// Nothing.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub fn at(_place: &str) {}
