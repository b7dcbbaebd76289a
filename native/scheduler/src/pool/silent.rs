//! Requests whose first token nobody sees, because their answers come whole: when their prefill ends is known by prediction
//! only, and else they would seem to be prefilled until they end, and hold up in the books what comes after them.

use super::Pool;
use crate::cost::Learned;

impl Pool {
    /// Nobody will see the first token of this request, which was started: its prefill counts as over when it should be by
    /// what is known of the endpoint, when a request behind it has its first token, or when its answer comes.
    pub fn expect_no_first_token(&mut self, id: u64) {
        if let Some(at) = self.flights.get(&id).and_then(|flight| self.position(flight.endpoint)) {
            self.endpoints[at].silence(id);
            if let Some(flight) = self.flights.get_mut(&id).filter(|flight| !flight.silent) {
                flight.silent = true;
                self.endpoints[at].silent += 1;
            }
        }
    }

    /// Ends the prefills that should be over by now. Where no first token was ever seen, nobody knows how fast prompts are
    /// computed here, and they count until their answers come: that tells at least which endpoint has more of them.
    pub(crate) fn settle_silent(&mut self, now: f64) {
        if self.learned == Learned::default() {
            return;
        }
        let factor = self.learned.factor();
        for at in 0..self.endpoints.len() {
            while let Some((id, ended)) = self.endpoints[at].overdue(factor, now) {
                self.begin(id, ended, false);
                if self.endpoints[at].silent_head() == Some(id) {
                    break;
                }
            }
        }
    }

    /// Ends the prefills that were before this one, which is over: engines take prompts in their order.
    pub(super) fn settle_overtaken(&mut self, id: u64, now: f64) {
        if let Some(at) = self.flights.get(&id).and_then(|flight| self.position(flight.endpoint)) {
            while let Some(before) = self.endpoints[at].silent_head().filter(|&head| head != id) {
                self.begin(before, now, false);
                if self.endpoints[at].silent_head() == Some(before) {
                    break;
                }
            }
        }
    }
}
