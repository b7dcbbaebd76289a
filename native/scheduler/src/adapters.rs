//! Adapters (LoRA) that an endpoint has loaded, as far as its requests and its metrics tell.

/// Adapters that an engine runs at once, where it does not say.
const MOST: usize = 8;
/// Adapters remembered at most, whatever an engine says.
const BOUND: usize = 256;

#[derive(Debug, Clone, Copy)]
struct Adapter {
    name: u64,
    in_flight: u32,
    used: u64,
    /// When a request for it came or ended last, by the pool's time.
    at: f64,
}

/// The adapters of one endpoint.
#[derive(Debug, Clone, Default)]
pub(crate) struct Adapters {
    loaded: Vec<Adapter>,
    most: Option<usize>,
    uses: u64,
    now: f64,
}

/// What an adapter's request would find at an endpoint.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Place {
    /// The adapter is loaded.
    Loaded,
    /// It must be loaded, and there is room.
    Free,
    /// It must be loaded in place of one that nobody has used for so many seconds.
    Drops(f64),
    /// It must wait: requests in flight use as many others as the engine runs at once.
    Full,
}

impl Adapters {
    /// The engine says which adapters it runs, and how many it can run at once. Others stay loaded until it needs their
    /// room.
    pub(crate) fn observe(&mut self, loaded: &[u64], most: Option<usize>) {
        self.most = most.or(self.most);
        for &name in loaded.iter().take(BOUND) {
            self.uses += 1;
            let used = self.uses;
            self.entry(name).used = used;
        }
        self.forget();
    }

    pub(crate) fn started(&mut self, name: u64, now: f64) {
        self.now = now;
        self.uses += 1;
        let used = self.uses;
        let entry = self.entry(name);
        entry.in_flight += 1;
        entry.used = used;
        entry.at = now;
        self.forget();
    }

    pub(crate) fn ended(&mut self, name: u64, now: f64) {
        self.now = now;
        if let Some(entry) = self.loaded.iter_mut().find(|one| one.name == name) {
            entry.in_flight = entry.in_flight.saturating_sub(1);
            entry.at = now;
        }
        self.forget();
    }

    pub(crate) fn place(&self, name: u64, now: f64) -> Place {
        if self.loaded.iter().any(|one| one.name == name) {
            return Place::Loaded;
        }
        if self.loaded.len() < self.most() {
            return Place::Free;
        }
        let idle = self.loaded.iter().filter(|one| one.in_flight == 0);
        let oldest = idle.min_by_key(|one| one.used);
        oldest.map_or(Place::Full, |one| Place::Drops((now - one.at).max(0.0)))
    }

    fn most(&self) -> usize {
        self.most.unwrap_or(MOST).clamp(1, BOUND)
    }

    fn entry(&mut self, name: u64) -> &mut Adapter {
        let at = match self.loaded.iter().position(|one| one.name == name) {
            Some(at) => at,
            None => {
                self.loaded.push(Adapter {
                    name,
                    in_flight: 0,
                    used: self.uses,
                    at: self.now,
                });
                self.loaded.len() - 1
            }
        };
        &mut self.loaded[at]
    }

    /// Engines drop the adapter that was used longest ago.
    fn forget(&mut self) {
        while self.loaded.len() > self.most() {
            let idle = self.loaded.iter().enumerate().filter(|(_, one)| one.in_flight == 0);
            match idle.min_by_key(|(_, one)| one.used).map(|(at, _)| at) {
                Some(at) => {
                    let _ = self.loaded.remove(at);
                }
                None => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_adapter_used_longest_ago_goes_and_those_in_use_stay() {
        let mut adapters = Adapters::default();
        adapters.observe(&[], Some(2));
        assert_eq!(adapters.place(1, 9.0), Place::Free);
        adapters.started(1, 9.0);
        adapters.started(2, 9.0);
        assert_eq!(
            (adapters.place(1, 9.0), adapters.place(3, 9.0)),
            (Place::Loaded, Place::Full)
        );
        adapters.ended(1, 9.0);
        assert_eq!(
            (adapters.place(1, 9.0), adapters.place(3, 9.0)),
            (Place::Loaded, Place::Drops(0.0))
        );
        adapters.started(3, 9.0);
        assert_eq!(
            (adapters.place(1, 9.0), adapters.place(2, 9.0)),
            (Place::Full, Place::Loaded)
        );
    }

    #[test]
    fn what_the_engine_says_counts_and_is_bounded() {
        let mut adapters = Adapters::default();
        adapters.started(7, 9.0);
        let said: Vec<u64> = (100..10_000).collect();
        adapters.observe(&said, Some(usize::MAX));
        assert!(adapters.loaded.len() <= BOUND);
        adapters.observe(&[5], Some(4));
        assert_eq!(
            (adapters.place(5, 9.0), adapters.place(7, 9.0), adapters.place(100, 9.0)),
            (Place::Loaded, Place::Loaded, Place::Drops(0.0))
        );
        adapters.ended(7, 9.0);
        adapters.ended(7, 9.0);
        adapters.observe(&[5], None);
        assert_eq!(adapters.place(7, 9.0), Place::Loaded); // nothing drove it out
        adapters.observe(&[1, 2, 3, 5], None);
        assert_eq!(adapters.place(7, 9.0), Place::Drops(0.0));
    }
}
