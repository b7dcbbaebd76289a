//! How many requests an engine runs at once (its places), as far as it says so or the streams that were sent there show.
//! Books of one endpoint, for [`crate::Pool`].
//!
//! A request that waits for a place gives itself away: as many streams run as before, its own first token does not come
//! for much longer than its prompt takes, and comes soon after one of those streams ends. An engine that is only busy
//! with prompts begins answers whether others end or not. So each such wait is evidence for the number that ran
//! meanwhile, and a greater number that runs for a while refutes it.

/// The wait before an end must have been this many times as long as the time from the end to the first token, ...
const WAITED: f64 = 2.5;
/// ... and longer by this many times what the whole prompt takes (caches may have forgotten what they are thought to
/// have, and lengths are estimates), and by this, in seconds.
const WHOLE: f64 = 2.0;
const MOMENT: f64 = 0.005;
/// A request that has its first token in less than this share of the time that its prompt takes after another one's end
/// was not begun by it; nor one that has it sooner than this share of the least that first tokens took of late.
const BEGUN_BEFORE: f64 = 0.5;
/// Each first token makes the least that first tokens took of late this many times longer, as old ones fade.
const FADES: f64 = 1.01;
/// What lasts for less, in seconds, may be an end that was heard of late.
const WHILE: f64 = 0.05;
/// Evidence that makes it certain, and the most that is kept (so much refutes it).
const CERTAIN: u32 = 4;
const MOST_EVIDENCE: u32 = 8;
/// Pages of metrics must say the same for so long to be evidence, in seconds.
const SAME: f64 = 0.5;
/// Seconds for which it is remembered that more ran than should.
const REMEMBERED: f64 = 60.0;
/// An engine whose KV cache is used more than this may have no room instead of no place.
const FULL_CACHE: f64 = 0.9;

/// A request's prompt: when it was sent, and how many seconds it takes where nothing else is under way, as what is
/// thought to be in the cache allows, and without a cache.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Prompt {
    pub(crate) sent: f64,
    pub(crate) alone: f64,
    pub(crate) whole: f64,
}

/// A stream ended while others waited for their first tokens.
#[derive(Debug, Clone, Copy)]
struct Freed {
    at: f64,
    /// How many ran until then, and since when.
    ran: u32,
    since: f64,
}

/// Evidence of how many requests an engine runs at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Evidence {
    count: u32,
    weight: u32,
}

/// How many requests one endpoint runs at once, as far as it is known.
#[derive(Debug, Clone, Default)]
pub(crate) struct Places {
    /// What the engine says that it can.
    told: Option<u32>,
    full: Evidence,
    /// Newer evidence of fewer.
    fewer: Evidence,
    /// What pages of metrics said in a row, and since when.
    page: Option<(u32, f64)>,
    /// Streams that have their first token, and since when there are so many.
    running: u32,
    changed: f64,
    /// When something was heard of a stream last.
    heard: f64,
    /// The least that first tokens took of late, in seconds (0: none was seen).
    quickest: f64,
    freed: Option<Freed>,
    /// The most that ran for a while, of late or since what is known became known; and when they did.
    proven: u32,
    proven_at: f64,
    /// Something is known that was not before.
    news: bool,
}

impl Places {
    /// A stream's first token came. `prompt`: what is known of the request, None where something else than a lack of
    /// places may have kept it. Whether it had to wait for a place.
    pub(crate) fn began(&mut self, prompt: Option<Prompt>, now: f64) -> bool {
        self.ran_for_a_while(now);
        let freed = self.freed.take();
        self.running += 1;
        self.changed = now;
        let (prompt, freed) = match (prompt, freed) {
            (Some(prompt), Some(freed)) => (prompt, freed),
            (prompt, _) => {
                if let Some(prompt) = prompt {
                    self.took(now - prompt.sent);
                }
                return false;
            }
        };
        let after = now - freed.at;
        let least = prompt.alone.max(self.quickest);
        let before = freed.at - freed.since.max(prompt.sent);
        let waited = after >= BEGUN_BEFORE * least && before > WAITED * after + WHOLE * prompt.whole + MOMENT;
        if waited {
            self.took(after);
            self.witness(freed.ran);
        }
        waited
    }

    /// A stream ended, or broke off; `waiting`: others wait for their first tokens.
    pub(crate) fn ended(&mut self, waiting: bool, now: f64) {
        self.ran_for_a_while(now);
        if !waiting {
            self.freed = None;
        } else if self.freed.is_none() {
            self.freed = Some(Freed {
                at: now,
                ran: self.running,
                since: self.changed,
            });
        }
        self.running = self.running.saturating_sub(1);
        self.changed = now;
    }

    /// The engine says how many requests it can run at once (None: it does not).
    pub(crate) fn tell(&mut self, places: Option<u32>) {
        let places = places.filter(|&places| places > 0);
        if places != self.told {
            self.told = places;
            self.proven = 0;
            self.news = true;
        }
    }

    /// The engine says that so many wait and run now, and how much of its KV cache is in use. Where those that run are
    /// just the streams that have their first tokens, no prompt is being computed: who waits, waits for a place.
    pub(crate) fn say(&mut self, waiting: f64, running: f64, kv_used: f64) {
        let sound = (1.0..=1e6).contains(&running) && kv_used < FULL_CACHE;
        let running = if sound { running as u32 } else { 0 };
        if sound && waiting < 1.0 {
            self.refute(running);
        }
        if !sound || waiting < 1.0 || running != self.running {
            self.page = None;
            return;
        }
        match self.page {
            Some((same, since)) if same == running => {
                if self.heard - since >= SAME {
                    self.page = Some((running, self.heard));
                    self.witness(running);
                }
            }
            _ => self.page = Some((running, self.heard)),
        }
    }

    /// How many requests it runs at once, if anything is known.
    pub(crate) fn known(&self) -> Option<u32> {
        let told = self.believed();
        let seen = Some(self.full.count).filter(|_| self.full.weight > 0);
        match (told, seen) {
            (Some(told), Some(seen)) if self.full.weight >= CERTAIN => Some(told.min(seen)),
            (told, seen) => told.or(seen),
        }
    }

    /// The same, if it is certain.
    pub(crate) fn certain(&self) -> Option<u32> {
        self.known()
            .filter(|_| self.believed().is_some() || self.full.weight >= CERTAIN)
    }

    /// Something is known that was not when this was asked last.
    pub(crate) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    /// Streams that have their first token.
    pub(crate) fn running(&self) -> u32 {
        self.running
    }

    /// The most that ran at once for a while, as far as that is remembered.
    pub(crate) fn proven(&self) -> u32 {
        self.proven.max(self.running)
    }

    /// What the engine says, unless clearly more ran (a few may be slow clients, for whom the engine is done).
    fn believed(&self) -> Option<u32> {
        self.told.filter(|&told| self.proven <= told.saturating_add(told / 8))
    }

    fn took(&mut self, seconds: f64) {
        let faded = if self.quickest > 0.0 {
            self.quickest * FADES
        } else {
            f64::INFINITY
        };
        self.quickest = seconds.max(1e-6).min(faded);
    }

    fn witness(&mut self, count: u32) {
        self.news = true;
        if count > self.full.count || self.full.weight == 0 {
            self.full = Evidence { count, weight: 0 };
        }
        if count == self.full.count {
            self.full.weight = (self.full.weight + 1).min(MOST_EVIDENCE);
            self.fewer = Evidence::default();
            return;
        }
        self.fewer.count = self.fewer.count.max(count);
        self.fewer.weight += 1;
        if self.fewer.weight > CERTAIN {
            self.full = std::mem::take(&mut self.fewer);
            self.proven = self.full.count;
        }
    }

    fn ran_for_a_while(&mut self, now: f64) {
        self.heard = now;
        if now - self.changed >= WHILE {
            if self.running >= self.proven || now - self.proven_at > REMEMBERED {
                self.news |= self.running != self.proven;
                self.proven = self.running;
                self.proven_at = now;
            }
            self.refute(self.running);
        }
    }

    /// So many ran at once.
    fn refute(&mut self, running: u32) {
        if running > self.full.count && self.full.weight > 0 {
            self.news = true;
            self.full.weight = self.full.weight.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(sent: f64, alone: f64) -> Option<Prompt> {
        Some(Prompt {
            sent,
            alone,
            whole: alone,
        })
    }

    /// Four places: requests wait, one begins 10 ms after each end, and ends come every 200 ms.
    fn four(places: &mut Places, from: f64, requests: u32) -> f64 {
        let mut now = from;
        while places.running < 4 {
            now += 0.01;
            let _ = places.began(prompt(now - 0.01, 0.005), now);
        }
        for _ in 0..requests {
            now += 0.2;
            places.ended(true, now);
            now += 0.01;
            let _ = places.began(prompt(now - 1.0, 0.005), now);
        }
        now
    }

    #[test]
    fn who_waits_for_an_end_shows_how_many_run_at_once() {
        let mut places = Places::default();
        let _ = four(&mut places, 0.0, 1);
        assert_eq!((places.known(), places.certain()), (Some(4), None));
        let _ = four(&mut places, 1.0, 3);
        assert_eq!((places.known(), places.certain()), (Some(4), Some(4)));
    }

    #[test]
    fn an_end_that_others_did_not_wait_for_shows_nothing() {
        // Begun before the end; not soon after the end; a long prompt; something else kept it.
        let cases = [(0.001, Some(0.02)), (0.15, Some(0.01)), (0.05, Some(0.1)), (0.01, None)];
        for (after, alone) in cases {
            let mut places = Places::default();
            let mut now = 0.0;
            for _ in 0..4 {
                let _ = places.began(prompt(now, 0.0), now);
            }
            for _ in 0..20 {
                now += 0.2;
                places.ended(true, now);
                now += after;
                assert!(!places.began(alone.and_then(|alone| prompt(now - 9.0, alone)), now));
            }
            assert_eq!(places.known(), None);
        }
    }

    #[test]
    fn an_end_just_before_a_first_token_that_always_takes_its_time_shows_nothing() {
        for (took, known) in [(0.05, None), (0.02, Some(4))] {
            let mut places = Places::default();
            let mut now = 0.0;
            for _ in 0..4 {
                let _ = places.began(prompt(now - took, 0.0), now);
            }
            for _ in 0..20 {
                now += 0.1;
                places.ended(true, now);
                now += 0.02;
                let _ = places.began(prompt(now - 9.0, 0.0), now);
            }
            assert_eq!(places.known(), known);
        }
    }

    #[test]
    fn more_that_run_refute_it_and_an_end_heard_of_late_does_not() {
        let mut places = Places::default();
        let mut now = four(&mut places, 0.0, 20);
        for _ in 0..20 {
            let _ = places.began(prompt(now, 0.0), now);
            now += 0.001;
            places.ended(false, now);
            now += 0.2;
        }
        assert_eq!(places.certain(), Some(4));
        let _ = places.began(prompt(now, 0.0), now);
        for _ in 0..MOST_EVIDENCE {
            let _ = places.began(prompt(now, 0.0), now + 0.1);
            places.ended(false, now + 0.2);
            now += 0.2;
        }
        assert_eq!(places.known(), None);
    }

    #[test]
    fn an_engine_that_came_back_with_fewer_is_known_soon() {
        let mut places = Places::default();
        let now = four(&mut places, 0.0, 20);
        for at in 0..2 {
            places.ended(false, now + f64::from(at));
        }
        places.running = 2;
        for at in 1..8 {
            let at = now + 2.0 + f64::from(at);
            places.ended(true, at);
            let _ = places.began(prompt(now, 0.0), at + 0.01);
        }
        assert_eq!(places.known(), Some(2));
    }

    #[test]
    fn what_the_engine_says_counts_unless_more_run() {
        let mut places = Places::default();
        places.tell(Some(2));
        assert_eq!(places.certain(), Some(2));
        let now = four(&mut places, 0.0, 0);
        places.ended(false, now + 1.0);
        assert_eq!((places.certain(), places.known()), (None, None));
        places.running = 1;
        places.ended(false, 90.0); // they may have been slow clients
        assert_eq!(places.certain(), Some(2));
        places.tell(Some(0));
        assert_eq!(places.known(), None);
        places.tell(Some(100));
        let _ = four(&mut places, 10.0, 4);
        assert_eq!(places.certain(), Some(4));
    }

    #[test]
    fn pages_that_say_that_requests_wait_though_no_prompt_is_computed_count() {
        let mut places = Places::default();
        for running in [8.0, 7.0, 8.0, 8.0, f64::NAN, 8.0, 8.0, -1.0] {
            places.say(3.0, running, 0.5);
        }
        assert_eq!(places.known(), None);
        for (kv_used, known) in [(0.95, None), (0.5, Some(8))] {
            for second in 0..10 {
                while places.running < 8 {
                    let _ = places.began(None, f64::from(second));
                }
                places.say(3.0, 8.0, kv_used);
                places.ended(false, f64::from(second));
            }
            assert_eq!(places.certain(), known);
        }
        for _ in 0..MOST_EVIDENCE {
            places.say(0.0, 9.0, 0.5);
        }
        assert_eq!(places.known(), None);
    }
}
