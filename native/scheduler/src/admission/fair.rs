//! Weighted fair sharing between tenants of one priority: self-clocked fair queueing. Each tenant's next ticket has a
//! tag, the virtual time at which it would be done were the tenant served at its share; the least tag goes next, and
//! virtual time is the greatest tag that went. A tenant unknown so far starts at the present virtual time. One that is
//! known and asked for less than its share meanwhile keeps a bounded credit, so that its small bursts go before those
//! who always ask for more than theirs: without it, a greedy tenant would make the others' bursts wait at their bare
//! share. Unknown ones have no credit, so that inventing tenants gains nothing.

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
    /// The tag of its last served ticket, but no more than the credit before virtual time when it came (again).
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
    /// Known tenants with nothing waiting, by their start.
    idle: BTreeSet<(u128, u64)>,
    weights: u64,
    count: usize,
    mean_cost: u64,
}

/// Tenants with nothing waiting that are remembered.
const MOST_IDLE: usize = 1024;

/// Weights are counted in thousandths.
const WHOLE: u32 = 1000;
const MOST_WEIGHT: u64 = 1_000_000_000;
/// Keeps the rounding of tags small.
const SCALE: u128 = 1_000_000_000;

/// A weight (1 is usual) as a whole number; nonsense counts as the least.
pub(super) fn whole_weight(weight: f64) -> u64 {
    ((weight * f64::from(WHOLE)).round() as u64).clamp(1, MOST_WEIGHT)
}

impl Tenant {
    fn turn(&self, name: u64) -> Option<Turn> {
        let (&seq, place) = self.places.iter().next()?;
        Some((self.tag(place), self.served, seq, name))
    }

    fn tag(&self, place: &Place) -> u128 {
        self.start + u128::from(place.cost.max(1)) * SCALE / u128::from(self.weight)
    }

    fn length(&self) -> u128 {
        self.places.len() as u128 * SCALE / u128::from(self.weight)
    }
}

impl FairQueue {
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Virtual time.
    pub(super) fn clock(&self) -> u128 {
        self.clock
    }

    /// It is at least so late: others with whom this queue shares have been served.
    pub(super) fn advance(&mut self, clock: u128) {
        self.clock = self.clock.max(clock);
    }

    /// Whose turn it is: the less, the sooner.
    pub(super) fn head(&self) -> Option<(u128, bool, u64)> {
        self.turns
            .iter()
            .next()
            .map(|&(tag, served, seq, _)| (tag, served, seq))
    }

    /// Put a ticket in. Tickets of a tenant go in the order of `seq`; its weight is from now on `weight`. A known
    /// tenant may have a credit of as much as `burst` tickets of average cost.
    pub(super) fn push(&mut self, (tenant, weight): (u64, u64), burst: u32, seq: u64, place: Place) {
        self.mean_cost = match self.mean_cost {
            0 => place.cost,
            mean => mean - mean / 16 + place.cost / 16,
        };
        let clock = self.clock;
        let credit = u128::from(burst) * u128::from(self.mean_cost) * SCALE / u128::from(WHOLE);
        self.change(tenant, |tenants| {
            let entry = tenants.entry(tenant).or_insert_with(|| Tenant {
                start: clock,
                served: false,
                weight,
                places: BTreeMap::new(),
            });
            if entry.places.is_empty() {
                entry.start = entry.start.max(clock.saturating_sub(credit));
                entry.served = false;
            }
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
    /// allow until virtual time comes to its tag, were it of average cost (of a ticket under way, half).
    pub(super) fn ahead(&self, tenant: u64, weight: u64) -> usize {
        let (own, own_weight) = self.own(tenant);
        let average = u128::from(self.mean_cost.max(1)) * SCALE;
        let step = average / u128::from(weight.max(1));
        let start = self.tenants.get(&tenant).map_or(self.clock, |entry| entry.start);
        let until = (start + own as u128 * step + step / 2).saturating_sub(self.clock);
        let others = u128::from(self.weights.saturating_sub(own_weight));
        let theirs = usize::try_from(until * others / average).unwrap_or(usize::MAX);
        own + theirs.min(self.count - own)
    }

    /// The share of service that a tenant gets while those who wait now do.
    pub(super) fn share(&self, tenant: u64, weight: u64) -> f64 {
        let (_, own_weight) = self.own(tenant);
        let others = self.weights.saturating_sub(own_weight);
        weight as f64 / (weight + others) as f64
    }

    /// Tickets and weight of a tenant that has tickets; else nothing.
    fn own(&self, tenant: u64) -> (usize, u64) {
        self.tenants
            .get(&tenant)
            .filter(|entry| !entry.places.is_empty())
            .map_or((0, 0), |entry| (entry.places.len(), entry.weight))
    }

    /// The newest ticket of the tenant with the most tickets for its weight.
    pub(super) fn newest_of_heaviest(&self) -> Option<u64> {
        let &(_, tenant) = self.lengths.iter().next_back()?;
        let (_, place) = self.tenants.get(&tenant)?.places.iter().next_back()?;
        Some(place.id)
    }

    /// How many tickets for its weight the tenant with the most has.
    pub(super) fn heaviest(&self) -> u128 {
        self.lengths.iter().next_back().map_or(0, |&(most, _)| most)
    }

    /// Whether some tenant has more tickets for its weight than this one would have with one more.
    pub(super) fn someone_is_heavier(&self, tenant: u64, weight: u64) -> bool {
        let (own, _) = self.own(tenant);
        let own = (own + 1) as u128 * SCALE / u128::from(weight.max(1));
        self.heaviest() > own
    }

    /// Change one tenant's tickets and keep the orders and sums.
    fn change<T>(&mut self, name: u64, act: impl FnOnce(&mut HashMap<u64, Tenant>) -> T) -> T {
        if let Some(entry) = self.tenants.get(&name) {
            match entry.turn(name) {
                Some(turn) => {
                    let _ = self.turns.remove(&turn);
                    let _ = self.lengths.remove(&(entry.length(), name));
                    self.weights -= entry.weight;
                    self.count -= entry.places.len();
                }
                None => {
                    let _ = self.idle.remove(&(entry.start, name));
                }
            }
        }
        let result = act(&mut self.tenants);
        if let Some(entry) = self.tenants.get(&name) {
            match entry.turn(name) {
                Some(turn) => {
                    let _ = self.turns.insert(turn);
                    let _ = self.lengths.insert((entry.length(), name));
                    self.weights += entry.weight;
                    self.count += entry.places.len();
                }
                None => {
                    let _ = self.idle.insert((entry.start, name));
                    self.forget_idle();
                }
            }
        }
        result
    }

    fn forget_idle(&mut self) {
        if self.idle.len() > MOST_IDLE {
            if let Some(&(start, name)) = self.idle.iter().next() {
                let _ = self.idle.remove(&(start, name));
                let _ = self.tenants.remove(&name);
            }
        }
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
                queue.push((tenant, whole_weight(weight)), 0, id, Place { id, cost });
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
        queue.push((2, 1000), 0, 99_999, Place { id: 20_000, cost: 10 });
        assert_eq!(served(&mut queue, 1), [20_000]);
    }

    #[test]
    fn newcomers_without_end_do_not_starve_who_is_there() {
        let mut queue = filled(&[(1, 1.0, 1000, 10)]);
        let mut ids = Vec::new();
        for newcomer in 100..300 {
            let id = newcomer * 10_000;
            queue.push((newcomer, 1000), 16, newcomer, Place { id, cost: 10 });
            ids.extend(served(&mut queue, 1));
        }
        // Newcomers that were not served stay and count as tenants, so its share falls, but it never stops.
        assert!(of(&ids, 1) >= 15, "{}", of(&ids, 1));
    }

    #[test]
    fn who_asked_for_little_has_a_bounded_credit() {
        let mut queue = filled(&[(1, 1.0, 1000, 10), (2, 1.0, 1, 10)]);
        let _ = served(&mut queue, 200);
        for id in 20_001..20_050 {
            queue.push((2, 1000), 8, id, Place { id, cost: 10 });
        }
        let ids = served(&mut queue, 28);
        assert_eq!((of(&ids[..8], 2), of(&ids, 2)), (8, 18));
    }

    #[test]
    fn few_tenants_that_have_nothing_waiting_are_remembered() {
        let mut queue = filled(&[(1, 1.0, 5, 10), (2, 2.0, 5, 10)]);
        assert_eq!(served(&mut queue, 100).len(), 10);
        assert!(queue.turns.is_empty() && queue.lengths.is_empty());
        assert_eq!((queue.len(), queue.weights, queue.tenants.len()), (0, 0, 2));
        for tenant in 3..5000 {
            queue.push((tenant, 1000), 16, tenant, Place { id: tenant, cost: 10 });
            let _ = queue.pop();
        }
        assert_eq!((queue.tenants.len(), queue.idle.len()), (MOST_IDLE, MOST_IDLE));
    }

    #[test]
    fn what_is_ahead_is_foretold() {
        let queue = filled(&[(1, 1.0, 100, 10), (2, 1.0, 3, 10)]);
        assert_eq!(queue.ahead(2, 1000), 6);
        assert_eq!(queue.ahead(1, 1000), 103);
        assert_eq!(queue.ahead(3, 1000), 1);
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
