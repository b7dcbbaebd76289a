//! Weighted fair sharing between tenants of one priority: self-clocked fair queueing. Each tenant's next ticket has a
//! tag, the virtual time at which it would be done were the tenant served at its share; the least tag goes next, and
//! virtual time is the tag of what went last. A tenant that has been away starts at the present virtual time, so it
//! neither saves up a right nor carries a debt, and tenants that have nothing waiting need not be remembered.

use std::collections::{BTreeMap, BTreeSet, HashMap};

/// One ticket in a fair queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) id: u64,
    /// What serving it costs, in any unit; at least 1.
    pub(super) cost: u64,
}

#[derive(Debug, Clone)]
struct Tenant {
    /// The tag of its last served ticket, or virtual time when it came.
    start: u128,
    /// Served since it came: at equal tags the one that was not goes first.
    served: bool,
    weight: u64,
    places: BTreeMap<u64, Place>,
}

type Turn = (u128, bool, u64, u64);

/// Tickets of one priority. Each operation takes time logarithmic in their number.
#[derive(Debug, Clone, Default)]
pub(super) struct FairQueue {
    clock: u128,
    tenants: HashMap<u64, Tenant>,
    turns: BTreeSet<Turn>,
    /// Tenants by the number of their tickets relative to their weight.
    lengths: BTreeSet<(u128, u64)>,
    weights: u64,
    count: usize,
}

/// Weights are counted in thousandths.
const WEIGHT: f64 = 1000.0;
const MOST_WEIGHT: u64 = 1_000_000_000;
/// Keeps the rounding of tags small.
const SCALE: u128 = 1_000_000_000;

/// A weight (1 is usual) as a whole number; nonsense counts as the least.
pub(super) fn whole_weight(weight: f64) -> u64 {
    ((weight * WEIGHT).round() as u64).clamp(1, MOST_WEIGHT)
}

impl Tenant {
    fn turn(&self, name: u64) -> Option<Turn> {
        let (&seq, place) = self.places.iter().next()?;
        Some((self.tag(place), self.served, seq, name))
    }

    fn tag(&self, place: &Place) -> u128 {
        self.start + u128::from(place.cost.max(1)) * SCALE / u128::from(self.weight)
    }

    fn length(&self, more: usize) -> u128 {
        (self.places.len() + more) as u128 * SCALE / u128::from(self.weight)
    }
}

impl FairQueue {
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Put a ticket in. Tickets of a tenant go in the order of `seq`; its weight is from now on `weight`.
    pub(super) fn push(&mut self, tenant: u64, weight: u64, seq: u64, place: Place) {
        let clock = self.clock;
        self.change(tenant, |tenants| {
            let entry = tenants.entry(tenant).or_insert_with(|| Tenant {
                start: clock,
                served: false,
                weight,
                places: BTreeMap::new(),
            });
            entry.weight = weight;
            let _ = entry.places.insert(seq, place);
        });
    }

    /// Take a ticket out, wherever it stands.
    pub(super) fn remove(&mut self, tenant: u64, seq: u64) -> Option<Place> {
        self.change(tenant, |tenants| tenants.get_mut(&tenant)?.places.remove(&seq))
    }

    /// Take out the ticket whose turn it is.
    pub(super) fn pop(&mut self) -> Option<Place> {
        let &(tag, _, seq, tenant) = self.turns.iter().next()?;
        self.clock = self.clock.max(tag);
        self.change(tenant, |tenants| {
            let entry = tenants.get_mut(&tenant)?;
            entry.start = tag;
            entry.served = true;
            entry.places.remove(&seq)
        })
    }

    /// Tickets that will probably go before a new one of this tenant: its own, and of the others what their weights
    /// allow meanwhile.
    pub(super) fn ahead(&self, tenant: u64, weight: u64) -> usize {
        let (own, own_weight) = self
            .tenants
            .get(&tenant)
            .map_or((0, 0), |entry| (entry.places.len(), entry.weight));
        let others = u128::from(self.weights.saturating_sub(own_weight));
        let theirs = own as u128 * others / u128::from(weight.max(1));
        let theirs = usize::try_from(theirs).unwrap_or(usize::MAX);
        own + theirs.min(self.count - own)
    }

    /// The share of service that a tenant gets while those who wait now do.
    pub(super) fn share(&self, tenant: u64, weight: u64) -> f64 {
        let own_weight = self.tenants.get(&tenant).map_or(0, |entry| entry.weight);
        let others = self.weights.saturating_sub(own_weight);
        weight as f64 / (weight + others) as f64
    }

    /// The newest ticket of the tenant with the most tickets for its weight.
    pub(super) fn newest_of_heaviest(&self) -> Option<u64> {
        let &(_, tenant) = self.lengths.iter().next_back()?;
        let (_, place) = self.tenants.get(&tenant)?.places.iter().next_back()?;
        Some(place.id)
    }

    /// Whether some tenant has more tickets for its weight than this one would have with one more.
    pub(super) fn someone_is_heavier(&self, tenant: u64, weight: u64) -> bool {
        let own = self.tenants.get(&tenant).map_or(0, |entry| entry.places.len());
        let own = (own + 1) as u128 * SCALE / u128::from(weight.max(1));
        self.lengths.iter().next_back().map_or(false, |&(most, _)| most > own)
    }

    /// Change one tenant's tickets and keep the orders and sums.
    fn change<T>(&mut self, name: u64, act: impl FnOnce(&mut HashMap<u64, Tenant>) -> T) -> T {
        if let Some(entry) = self.tenants.get(&name) {
            if let Some(turn) = entry.turn(name) {
                let _ = self.turns.remove(&turn);
            }
            let _ = self.lengths.remove(&(entry.length(0), name));
            self.weights -= entry.weight;
            self.count -= entry.places.len();
        }
        let result = act(&mut self.tenants);
        if let Some(entry) = self.tenants.get(&name) {
            match entry.turn(name) {
                Some(turn) => {
                    let _ = self.turns.insert(turn);
                    let _ = self.lengths.insert((entry.length(0), name));
                    self.weights += entry.weight;
                    self.count += entry.places.len();
                }
                None => {
                    let _ = self.tenants.remove(&name);
                }
            }
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(queue: &mut FairQueue, count: usize) -> Vec<u64> {
        (0..count).filter_map(|_| queue.pop()).map(|place| place.id).collect()
    }

    fn filled(tenants: &[(u64, f64, u64, u64)]) -> FairQueue {
        let mut queue = FairQueue::default();
        for &(tenant, weight, tickets, cost) in tenants {
            for ticket in 0..tickets {
                let id = tenant * 10_000 + ticket;
                queue.push(tenant, whole_weight(weight), id, Place { id, cost });
            }
        }
        queue
    }

    fn of(ids: &[u64], tenant: u64) -> usize {
        ids.iter().filter(|&&id| id / 10_000 == tenant).count()
    }

    #[test]
    fn equal_tenants_alternate_and_each_keeps_its_own_order() {
        let mut queue = filled(&[(1, 1.0, 100, 7), (2, 1.0, 3, 7)]);
        assert_eq!(served(&mut queue, 6), [10_000, 20_000, 10_001, 20_001, 10_002, 20_002]);
    }

    #[test]
    fn service_follows_the_weights() {
        let mut queue = filled(&[(1, 3.0, 500, 10), (2, 1.0, 500, 10)]);
        let ids = served(&mut queue, 400);
        assert_eq!((of(&ids, 1), of(&ids, 2)), (300, 100));
    }

    #[test]
    fn service_is_shared_by_cost_not_by_tickets() {
        let mut queue = filled(&[(1, 1.0, 500, 100), (2, 1.0, 500, 10)]);
        let ids = served(&mut queue, 110);
        assert_eq!((of(&ids, 1), of(&ids, 2)), (10, 100));
    }

    #[test]
    fn a_newcomer_waits_for_no_one_who_was_just_served() {
        let mut queue = filled(&[(1, 1.0, 1000, 10)]);
        let _ = served(&mut queue, 500);
        queue.push(2, whole_weight(1.0), 99_999, Place { id: 20_000, cost: 10 });
        assert_eq!(served(&mut queue, 1), [20_000]);
    }

    #[test]
    fn newcomers_without_end_do_not_starve_who_is_there() {
        let mut queue = filled(&[(1, 1.0, 1000, 10)]);
        let mut ids = Vec::new();
        for newcomer in 100..300 {
            queue.push(
                newcomer,
                whole_weight(1.0),
                newcomer,
                Place {
                    id: newcomer * 10_000,
                    cost: 10,
                },
            );
            ids.extend(served(&mut queue, 1));
        }
        // Newcomers that were not served stay and count as tenants, so its share falls, but it never stops.
        assert!(of(&ids, 1) >= 15, "{}", of(&ids, 1));
    }

    #[test]
    fn tenants_that_have_nothing_waiting_are_forgotten() {
        let mut queue = filled(&[(1, 1.0, 5, 10), (2, 2.0, 5, 10)]);
        assert_eq!(served(&mut queue, 100).len(), 10);
        assert_eq!(queue.len(), 0);
        assert!(queue.tenants.is_empty() && queue.turns.is_empty() && queue.lengths.is_empty());
        assert_eq!(queue.weights, 0);
    }

    #[test]
    fn what_is_ahead_is_foretold() {
        let queue = filled(&[(1, 1.0, 100, 10), (2, 1.0, 3, 10)]);
        assert_eq!(queue.ahead(2, 1000), 6);
        assert_eq!(queue.ahead(1, 1000), 103);
        assert_eq!(queue.ahead(3, 1000), 0);
        assert!((queue.share(3, 1000) - 1.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn the_heaviest_gives_way() {
        let queue = filled(&[(1, 10.0, 100, 10), (2, 1.0, 30, 10)]);
        assert_eq!(queue.newest_of_heaviest(), Some(20_029));
        assert!(queue.someone_is_heavier(1, whole_weight(10.0)));
        assert!(!queue.someone_is_heavier(2, whole_weight(1.0)));
    }

    #[test]
    fn nonsense_weights_are_bounded() {
        for weight in [f64::NAN, -1.0, 0.0, 1e-9] {
            assert_eq!(whole_weight(weight), 1);
        }
        assert_eq!(whole_weight(f64::INFINITY), MOST_WEIGHT);
    }
}
