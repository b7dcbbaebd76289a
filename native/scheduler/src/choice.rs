//! The choice among a pool's endpoints, policy by policy.

use crate::endpoint::EndpointState;
use crate::outside::Counted;
use crate::pool::{Pick, Policy, Pool, Reason, Request};
use crate::predict::{predict, Facts, Prediction};

/// The most that waiting adds to the weight of a second of a request's own computing.
const MOST_WORK_WEIGHT: f64 = 8.0;
/// What each request in flight (the average endpoint) adds to it where KV caches are full: they hold their room for
/// longer, and those that wait for room wait for longer.
const CROWD_WEIGHT: f64 = 0.1;
/// How late that sets in: half full counts a 256th of full.
const CROWD_POWER: i32 = 8;
/// A new endpoint's turn comes when it could have had this share of the others' requests, at first; more as it gets warm.
const COLDEST: f64 = 0.1;
/// Scores this close (relative) are the same; the fewer requests decide.
const SAME: f64 = 1e-9;

/// How predictions are weighed, one choice long.
#[derive(Debug, Clone, Copy)]
struct Scales {
    /// How much a second of the request's own computing counts: it keeps others waiting too.
    work: f64,
    /// How slow the pool is, beside the cost model.
    slow: f64,
    /// Endpoints to choose from.
    endpoints: f64,
    /// Predicted seconds to the first token that are too many, since another endpoint is so much sooner: its share of
    /// what everybody saves by its staying is more than it owes them.
    too_late: f64,
}

impl Pool {
    /// The endpoint for a request; None where none takes requests. `random` is uniform in 0..1 and used only by
    /// policies that need chance.
    pub fn pick(&mut self, request: &Request<'_>, now: f64, random: f64) -> Option<Pick> {
        self.settle_silent(now);
        for endpoint in &mut self.endpoints {
            endpoint.outside.considered(now);
        }
        let open: Vec<usize> = (0..self.endpoints.len())
            .filter(|&at| {
                let endpoint = &self.endpoints[at];
                endpoint.state == EndpointState::Ready && !request.excluded.contains(&endpoint.name)
            })
            .collect();
        match open.len() {
            0 => return None,
            1 => return Some(self.answer(open[0], request, Reason::Only, now)),
            _ => {}
        }
        if let Some(at) = request
            .session
            .and_then(|name| open.iter().copied().find(|&at| self.endpoints[at].name == name))
        {
            return Some(self.answer(at, request, Reason::Session, now));
        }
        let (at, reason) = match self.config.policy {
            Policy::PredictedDrain => self.soonest(&open, request, now),
            Policy::LeastRequest => (self.least_loaded(&open, random, now), Reason::Load),
            Policy::RoundRobin => {
                self.turn = self.turn.wrapping_add(1);
                (open[self.turn % open.len()], Reason::Turn)
            }
            Policy::Prefix => self.longest_prefix(&open, request, random, now),
            Policy::RandomTwo => (self.better_of_two(&open, random, now), Reason::Turn),
        };
        Some(self.answer(at, request, reason, now))
    }

    fn answer(&self, at: usize, request: &Request<'_>, reason: Reason, now: f64) -> Pick {
        let cached_tokens = self.cached_tokens(at, request);
        let predicted = match self.config.policy {
            Policy::PredictedDrain => self.predict(at, request, cached_tokens, now).first_token(),
            _ => 0.0,
        };
        Pick {
            endpoint: self.endpoints[at].name,
            reason,
            cached_tokens,
            predicted,
        }
    }

    /// What sending the request there now would mean.
    fn predict(&self, at: usize, request: &Request<'_>, cached: f64, now: f64) -> Prediction {
        self.predict_with(at, request, cached, self.endpoints[at].others(now), now)
    }

    pub(crate) fn predict_with(
        &self,
        at: usize,
        request: &Request<'_>,
        cached: f64,
        others: Counted,
        now: f64,
    ) -> Prediction {
        let endpoint = &self.endpoints[at];
        let facts = Facts {
            config: &self.config,
            learned: &self.learned,
            cache: self.cache_size(at),
            places: self.places_at(at),
            usual: self.usual,
            now,
        };
        let adapter = request.adapter.map(|name| endpoint.adapters.place(name, now));
        predict(&facts, endpoint, self.work_with(at, request, cached), adapter, others)
    }

    fn soonest(&self, open: &[usize], request: &Request<'_>, now: f64) -> (usize, Reason) {
        let predicted: Vec<Prediction> = open
            .iter()
            .map(|&at| self.predict(at, request, self.cached_tokens(at, request), now))
            .collect();
        let scales = self.scales(open, &predicted, now);
        let mut best = (0, f64::INFINITY);
        for (place, prediction) in predicted.iter().enumerate() {
            let score = self.score(open[place], prediction, &scales, now);
            let fewer = self.endpoints[open[place]].load(now) < self.endpoints[open[best.0]].load(now);
            if score < best.1 * (1.0 - SAME) || (score <= best.1 * (1.0 + SAME) && fewer) {
                best = (place, score);
            }
        }
        let winner = open[best.0];
        // Had nobody anything of it in the cache, would another have been as good?
        let plain = |at: usize| self.score(at, &self.predict(at, request, 0.0, now), &scales, now);
        let owes_it_to_cache = self.cached_tokens(winner, request) > 0.0 && {
            let bar = plain(winner) * (1.0 + SAME);
            open.iter().any(|&at| at != winner && plain(at) <= bar)
        };
        (winner, if owes_it_to_cache { Reason::Prefix } else { Reason::Load })
    }

    fn scales(&self, open: &[usize], predicted: &[Prediction], now: f64) -> Scales {
        let count = open.len() as f64;
        let mean = |value: &dyn Fn(usize) -> f64| (0..open.len()).map(value).sum::<f64>() / count;
        let mut waits: Vec<f64> = predicted.iter().map(|one| one.wait).collect();
        waits.sort_by(f64::total_cmp);
        let slow = self.learned.factor();
        let waiting = self.config.work_weight_growth * waits[(waits.len() - 1) / 2] / slow;
        let full = mean(&|place| predicted[place].full.min(1.5)).min(1.0);
        let in_flight = mean(&|place| self.endpoints[open[place]].load(now));
        let warm = |place: &usize| now - self.endpoints[open[*place]].since >= self.config.warmup;
        let soonest = (0..open.len())
            .filter(warm)
            .map(|place| predicted[place].first_token())
            .fold(f64::INFINITY, f64::min);
        Scales {
            work: (self.config.work_weight + waiting).min(MOST_WORK_WEIGHT)
                + CROWD_WEIGHT * in_flight * full.powi(CROWD_POWER),
            slow,
            endpoints: count,
            too_late: 2.0 * soonest + mean(&|place| waits[place]),
        }
    }

    /// What the choice weighs; less is better.
    fn score(&self, at: usize, prediction: &Prediction, scales: &Scales, now: f64) -> f64 {
        let endpoint = &self.endpoints[at];
        let evicting = prediction.evictions * self.forgotten.price(endpoint.residency.oldest(now));
        let score = prediction.wait
            + scales.work * (prediction.work + scales.slow * evicting)
            + scales.slow * prediction.company;
        let warm = ((now - endpoint.since) / self.config.warmup.max(1e-9)).clamp(COLDEST, 1.0);
        let turn = scales.endpoints / warm - scales.endpoints;
        let warmed = if f64::from(endpoint.elsewhere) < turn {
            score / warm
        } else {
            score
        };
        let late = prediction.first_token();
        if late > scales.too_late {
            warmed + TOO_LATE * (1.0 + late)
        } else {
            warmed
        }
    }

    fn least_loaded(&self, open: &[usize], random: f64, now: f64) -> usize {
        let load = |at: usize| self.endpoints[at].load(now);
        let least = open.iter().map(|&at| load(at)).fold(f64::INFINITY, f64::min);
        let equal: Vec<usize> = open.iter().copied().filter(|&at| load(at) <= least).collect();
        equal[index_of(random, equal.len())]
    }

    fn longest_prefix(&self, open: &[usize], request: &Request<'_>, random: f64, now: f64) -> (usize, Reason) {
        let longest = open
            .iter()
            .map(|&at| self.cached_tokens(at, request))
            .fold(0.0, f64::max);
        if longest <= 0.0 {
            return (self.least_loaded(open, random, now), Reason::Load);
        }
        let equal: Vec<usize> = open
            .iter()
            .copied()
            .filter(|&at| self.cached_tokens(at, request) >= longest)
            .collect();
        (self.least_loaded(&equal, random, now), Reason::Prefix)
    }

    fn better_of_two(&self, open: &[usize], random: f64, now: f64) -> usize {
        let pairs = open.len() * (open.len() - 1);
        let pair = index_of(random, pairs);
        let first = pair / (open.len() - 1);
        let rest = pair % (open.len() - 1);
        let second = if rest >= first { rest + 1 } else { rest };
        let (first, second) = (open[first], open[second]);
        if self.endpoints[second].load(now) < self.endpoints[first].load(now) {
            second
        } else {
            first
        }
    }
}

/// Endpoints where the first token would come too late are chosen only among themselves.
const TOO_LATE: f64 = 1e6;

/// A uniform index below `count` from a uniform number in 0..1.
fn index_of(random: f64, count: usize) -> usize {
    ((random * count as f64) as usize).min(count - 1)
}
