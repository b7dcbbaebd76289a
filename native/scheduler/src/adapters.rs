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
}

/// The adapters of one endpoint.
#[derive(Debug, Clone, Default)]
pub(crate) struct Adapters {
    loaded: Vec<Adapter>,
    most: Option<usize>,
    uses: u64,
}

/// What an adapter's request would find at an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// The adapter is loaded.
    Loaded,
    /// It must be loaded, in place of one that nobody uses.
    Free,
    /// It must wait: requests in flight use as many others as the engine runs at once.
    Full,
}

impl Adapters {
    /// The engine says which adapters it has, and how many it runs at once.
    pub(crate) fn observe(&mut self, loaded: &[u64], most: Option<usize>) {
        self.most = most.or(self.most);
        self.loaded
            .retain(|one| one.in_flight > 0 || loaded.contains(&one.name));
        for &name in loaded.iter().take(BOUND) {
            self.entry(name);
        }
        self.forget();
    }

    pub(crate) fn started(&mut self, name: u64) {
        self.uses += 1;
        let used = self.uses;
        let entry = self.entry(name);
        entry.in_flight += 1;
        entry.used = used;
        self.forget();
    }

    pub(crate) fn ended(&mut self, name: u64) {
        if let Some(entry) = self.loaded.iter_mut().find(|one| one.name == name) {
            entry.in_flight = entry.in_flight.saturating_sub(1);
        }
        self.forget();
    }

    pub(crate) fn place(&self, name: u64) -> Place {
        if self.loaded.iter().any(|one| one.name == name) {
            Place::Loaded
        } else if self.loaded.iter().filter(|one| one.in_flight > 0).count() < self.most() {
            Place::Free
        } else {
            Place::Full
        }
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
        assert_eq!(adapters.place(1), Place::Free);
        adapters.started(1);
        adapters.started(2);
        assert_eq!((adapters.place(1), adapters.place(3)), (Place::Loaded, Place::Full));
        adapters.ended(1);
        assert_eq!((adapters.place(1), adapters.place(3)), (Place::Loaded, Place::Free));
        adapters.started(3);
        assert_eq!((adapters.place(1), adapters.place(2)), (Place::Full, Place::Loaded));
    }

    #[test]
    fn what_the_engine_says_counts_and_is_bounded() {
        let mut adapters = Adapters::default();
        adapters.started(7);
        let said: Vec<u64> = (100..10_000).collect();
        adapters.observe(&said, Some(usize::MAX));
        assert!(adapters.loaded.len() <= BOUND);
        adapters.observe(&[5], Some(4));
        assert_eq!(
            (adapters.place(5), adapters.place(7), adapters.place(100)),
            (Place::Loaded, Place::Loaded, Place::Free)
        );
        adapters.ended(7);
        adapters.ended(7);
        adapters.observe(&[5], None);
        assert_eq!(adapters.place(7), Place::Free);
    }
}
