//! Perfect information: every engine's present state rolled forward to a request's first token.
//!
//! What waits in a queue is not changed by what is queued behind it. So the future of an engine up to the step in which
//! its queue gets empty is kept from one request to the next, and a long queue costs each request little.

use engine::{Engine, Job};

/// An engine's state at a later moment, when those that wait now have nearly all been admitted.
#[derive(Debug, Clone)]
struct Forecast {
    engine: Engine,
    /// When that is: the next step begins, and is the first one that could admit one more.
    at: f64,
}

impl Forecast {
    fn new(engine: &Engine, step_end: Option<f64>, now: f64) -> Self {
        let mut engine = engine.clone();
        if step_end.is_some() {
            engine.end_step(&mut Vec::new());
        }
        let mut forecast = Forecast {
            engine,
            at: step_end.unwrap_or(now),
        };
        forecast.advance();
        forecast
    }

    fn submit(&mut self, job: Job) {
        if self.engine.submit(job).is_ok() {
            self.advance();
        }
    }

    /// Go on to the last moment at which all that is to come is decided by what is known.
    fn advance(&mut self) {
        let mut produced = Vec::new();
        let mut ahead = self.engine.clone();
        let mut steps = 0;
        while ahead.begin_step().is_some() && ahead.waiting() > 0 {
            ahead.end_step(&mut produced);
            produced.clear();
            steps += 1;
        }
        for _ in 0..steps {
            if let Some(seconds) = self.engine.begin_step() {
                self.at += seconds;
                self.engine.end_step(&mut produced);
                produced.clear();
            }
        }
    }
}

/// What is known of the engines' futures.
#[derive(Debug, Clone)]
pub(crate) struct Forecasts(Vec<Option<Forecast>>);

impl Forecasts {
    pub(crate) fn new(workers: usize) -> Self {
        Forecasts(vec![None; workers])
    }

    /// A job is queued at an engine, right after the engines' forecasts were asked for.
    pub(crate) fn sent(&mut self, at: usize, job: &Job) {
        if let Some(forecast) = &mut self.0[at] {
            forecast.submit(job.clone());
        }
    }

    /// The forecast for an engine; None where it has no queue. It is begun anew where the queue was empty meanwhile.
    fn of(&mut self, at: usize, truth: &Truth<'_>, now: f64) -> Option<&Forecast> {
        let known = self.0[at].take().filter(|one| one.at >= now);
        if truth.engines[at].waiting() > 0 {
            self.0[at] = known.or_else(|| Some(Forecast::new(&truth.engines[at], truth.step_ends[at], now)));
        }
        self.0[at].as_ref()
    }
}

/// What only perfect information knows.
pub(crate) struct Truth<'a> {
    pub(crate) job: &'a Job,
    pub(crate) engines: &'a [Engine],
    /// When each engine's step under way ends; None where it is idle.
    pub(crate) step_ends: &'a [Option<f64>],
    pub(crate) forecasts: &'a mut Forecasts,
}

impl Truth<'_> {
    /// The engine where the job's first token comes soonest.
    pub(crate) fn soonest(&mut self, now: f64) -> usize {
        let mut forecasts = std::mem::replace(self.forecasts, Forecasts(Vec::new()));
        let mut best = (0, f64::INFINITY);
        for at in 0..self.engines.len() {
            let seconds = match forecasts.of(at, self, now) {
                Some(forecast) => self.first_token(forecast.engine.clone(), forecast.at - now, best.1),
                None => self.first_token_in(at, now, best.1),
            };
            if seconds < best.1 {
                best = (at, seconds);
            }
        }
        *self.forecasts = forecasts;
        best.0
    }

    /// Seconds until the job's first token, were it sent to that engine and nothing after it. Gives up at `most`.
    fn first_token_in(&self, at: usize, now: f64, most: f64) -> f64 {
        let mut engine = self.engines[at].clone();
        let mut elapsed = 0.0;
        if let Some(end) = self.step_ends[at] {
            elapsed = end - now;
            engine.end_step(&mut Vec::new());
        }
        self.first_token(engine, elapsed, most)
    }

    /// The same for an engine between two steps, as it is after `elapsed` seconds.
    fn first_token(&self, mut engine: Engine, mut elapsed: f64, most: f64) -> f64 {
        if elapsed >= most || engine.submit(self.job.clone()).is_err() {
            return f64::INFINITY;
        }
        let mut produced = Vec::new();
        while elapsed < most {
            produced.clear();
            match engine.begin_step() {
                Some(seconds) => elapsed += seconds,
                None => break,
            }
            engine.end_step(&mut produced);
            if produced.iter().any(|one| one.id == self.job.id) {
                return elapsed;
            }
        }
        f64::INFINITY
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Chance;
    use engine::EngineConfig;

    fn job(id: u64, chance: &mut Chance) -> Job {
        let session = (chance.uniform() * 20.0) as u64;
        let length = 1 + (chance.uniform() * 12.0) as u64;
        Job {
            id,
            prompt: 512 * length as usize + (chance.uniform() * 500.0) as usize,
            answer: 1 + (chance.uniform() * 300.0) as usize,
            blocks: (0..length).map(|at| session * 100 + at).collect(),
        }
    }

    /// The first token's time at each engine by the kept forecast, where there is a queue, and by going through it all.
    fn compare(truth: &Truth<'_>, forecasts: &mut Forecasts, now: f64) -> usize {
        let mut queues = 0;
        for at in 0..truth.engines.len() {
            let whole = truth.first_token_in(at, now, f64::INFINITY);
            if let Some(forecast) = forecasts.of(at, truth, now) {
                queues += 1;
                let kept = truth.first_token(forecast.engine.clone(), forecast.at - now, f64::INFINITY);
                assert!((kept - whole).abs() < 1e-6, "{kept} is not {whole}");
            }
        }
        queues
    }

    #[test]
    fn kept_forecasts_say_what_going_through_the_whole_queue_says() {
        let mut chance = Chance::new(5);
        let config = EngineConfig {
            kv_tokens: 16_384,
            sequences: 12,
            ..EngineConfig::default()
        };
        let mut engines = vec![Engine::new(config); 3];
        let mut step_ends = vec![None; 3];
        let mut forecasts = Forecasts::new(3);
        let (mut now, mut queues) = (0.0, 0);
        for id in 0..600 {
            // It comes too fast for a while, then slowly, so that queues grow, drain and begin again.
            now += chance.uniform() * if id % 150 < 100 { 0.1 } else { 2.0 };
            for (engine, step_end) in engines.iter_mut().zip(&mut step_ends) {
                while let Some(end) = step_end.filter(|&end| end <= now) {
                    engine.end_step(&mut Vec::new());
                    *step_end = engine.begin_step().map(|seconds| end + seconds);
                }
            }
            let job = job(id, &mut chance);
            let mut truth = Truth {
                job: &job,
                engines: &engines,
                step_ends: &step_ends,
                forecasts: &mut Forecasts::new(3),
            };
            queues += compare(&truth, &mut forecasts, now);
            let at = truth.soonest(now);
            forecasts.sent(at, &job);
            assert!(engines[at].submit(job).is_ok());
            if step_ends[at].is_none() {
                step_ends[at] = engines[at].begin_step().map(|seconds| now + seconds);
            }
        }
        assert!(queues > 300, "{queues}");
        assert!(engines.iter().any(|engine| engine.preemptions() > 0));
    }
}
