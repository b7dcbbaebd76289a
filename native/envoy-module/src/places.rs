//! Where each request of a pool is, and how many places are taken where: for limits of concurrency per endpoint. For
//! [`crate::pools`].
//!
//! Unlike the scheduler's books, which forget an endpoint that is gone, this remembers requests until they end: they run
//! on, but take no place of the endpoints that are left.

use std::collections::HashMap;

/// Requests that were sent, by endpoint; as many as are under way.
#[derive(Debug, Default)]
pub struct Places {
    requests: HashMap<u64, u64>,
    taken: HashMap<u64, u32>,
    /// Endpoints to which requests are sent, in order.
    usable: Vec<u64>,
}

impl Places {
    /// Requests are sent to these from now on.
    pub fn set_usable(&mut self, mut endpoints: Vec<u64>) {
        endpoints.sort_unstable();
        endpoints.dedup();
        self.usable = endpoints;
    }

    /// How many there are to which requests are sent.
    pub fn usable(&self) -> u32 {
        self.usable.len() as u32
    }

    /// A request was sent to an endpoint; if it was at another before, it is there no more.
    pub fn put(&mut self, request: u64, endpoint: u64) {
        let _ = self.free(request);
        let _ = self.requests.insert(request, endpoint);
        *self.taken.entry(endpoint).or_insert(0) += 1;
    }

    /// A request ended. Whether it was where nothing is sent any more.
    pub fn free(&mut self, request: u64) -> bool {
        let endpoint = match self.requests.remove(&request) {
            Some(endpoint) => endpoint,
            None => return false,
        };
        if let Some(taken) = self.taken.get_mut(&endpoint) {
            *taken -= 1;
            if *taken == 0 {
                let _ = self.taken.remove(&endpoint);
            }
        }
        !self.is_usable(endpoint)
    }

    /// Requests at an endpoint.
    pub fn taken(&self, endpoint: u64) -> u32 {
        self.taken.get(&endpoint).copied().unwrap_or(0)
    }

    /// Endpoints with requests.
    pub fn busy(&self) -> impl Iterator<Item = u64> + '_ {
        self.taken.keys().copied()
    }

    /// Requests at endpoints to which nothing is sent any more.
    pub fn stranded(&self) -> u32 {
        self.taken
            .iter()
            .filter(|(&endpoint, _)| !self.is_usable(endpoint))
            .map(|(_, taken)| taken)
            .sum()
    }

    /// Whether requests are sent there.
    pub fn is_usable(&self, endpoint: u64) -> bool {
        self.usable.binary_search(&endpoint).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_where_they_are_until_they_end() {
        let mut places = Places::default();
        places.set_usable(vec![20, 10]);
        for (request, endpoint) in [(1, 10), (2, 10), (3, 20)] {
            places.put(request, endpoint);
        }
        assert_eq!((places.taken(10), places.taken(20), places.taken(30)), (2, 1, 0));
        assert_eq!(
            places.busy().filter(|&one| places.taken(one) > 1).collect::<Vec<_>>(),
            [10]
        );
        places.put(2, 20); // sent again, elsewhere
        assert_eq!((places.taken(10), places.taken(20)), (1, 2));
        assert_eq!((places.usable(), places.stranded()), (2, 0));
        places.set_usable(vec![10]);
        assert_eq!((places.usable(), places.stranded()), (1, 2));
        assert!(!places.free(1));
        assert!(places.free(2) && places.free(3));
        assert!(!places.free(3) && !places.free(4));
        assert!(places.requests.is_empty() && places.taken.is_empty());
    }
}
