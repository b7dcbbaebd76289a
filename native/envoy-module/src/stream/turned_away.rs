//! What becomes of a request that its pool does not take: it goes elsewhere, if the pool's settings say so, or is refused.
//!
//! A header tells Envoy's routes that elsewhere is meant. A client must not be able to say so, so its own is taken out
//! before anything else happens.

use super::{PoolStream, State};
use crate::abi::callbacks::{Headers, Stream};
use crate::abi::guarded;
use crate::account::Account;
use crate::ask::Ask;
use crate::balancer::REQUEST_HEADER;
use crate::flight::{Flight, Standpoint};
use crate::pools::{locked, pool_of_cluster, PoolState};
use crate::report::Statistics;
use crate::request::Understood;
use scheduler::admission::{Event, Refusal, RefusalReason};
use std::sync::Arc;

/// The request header by which routes know requests that overflowed.
const HEADER: &str = "x-headrace-overflow";

/// A request went elsewhere.
#[derive(Debug)]
pub struct Detour {
    /// The pool that did not take it.
    pub pool: Arc<PoolState>,
    /// Why.
    reason: RefusalReason,
    /// Seconds that it had waited there.
    waited: f64,
}

/// Takes out what a client wrote into the header, and has the route chosen without it.
pub fn forget_the_client_s(stream: Stream<'_>) {
    if stream.header(Headers::Request, HEADER).is_some() {
        stream.set_header(Headers::Request, HEADER, None);
        stream.choose_route_anew();
    }
}

/// Has the route chosen for what overflowed. The cluster that it names, and everything as before where it is the same.
fn reroute(stream: Stream<'_>, to: &str, from: &str) -> Option<String> {
    stream.set_header(Headers::Request, HEADER, Some(to.as_bytes()));
    stream.choose_route_anew();
    let cluster = stream.cluster().filter(|cluster| cluster != from); // from here on the route stands
    stream.set_header(Headers::Request, HEADER, None);
    if cluster.is_none() {
        stream.choose_route_anew();
    }
    cluster
}

impl PoolStream {
    /// The gate has decided about a held request. Where something panics, it goes on.
    pub(super) fn hear_verdict(&self, stream: Stream<'_>) {
        if guarded(true, || self.obey_verdict(stream)) {
            self.let_go(stream);
        }
    }

    /// Whether the request goes on now.
    fn obey_verdict(&self, stream: Stream<'_>) -> bool {
        crate::faults::at("verdict");
        let verdict = self.with_flight(|flight| {
            let verdict = locked(&flight.entry.facts().verdict).take()?;
            if flight.standpoint != Standpoint::Held {
                return None;
            }
            let (Event::Released { waited, .. } | Event::Refused { waited, .. }) = verdict;
            flight.queued += waited;
            if let Event::Released { .. } = verdict {
                flight.standpoint = Standpoint::Sent;
            }
            Some(verdict)
        });
        match verdict.flatten() {
            Some(Event::Released { .. }) => {
                if let Some(pool) = self.with_flight(|flight| flight.entry.facts().pool.clone()) {
                    Statistics::note(&self.filter, &pool, None);
                }
                true
            }
            Some(Event::Refused { refusal, .. }) => self.turn_away(stream, &refusal) == Standpoint::Sent,
            None => false,
        }
    }

    /// Whether it is held and would be redirected. Envoy chooses no route any more once an answer has begun, so no sign of
    /// life may be given until then.
    pub(super) fn may_go_elsewhere(&self) -> bool {
        let redirects = |flight: &mut Flight| {
            let settings = flight.entry.facts().pool.settings();
            let admission = settings.admission.as_ref();
            flight.standpoint == Standpoint::Held && admission.map_or(false, |settings| settings.redirect_to.is_some())
        };
        self.detour.borrow().is_none() && self.with_flight(redirects) == Some(true)
    }

    /// The pool does not take the request: where it stands now.
    pub(super) fn turn_away(&self, stream: Stream<'_>, refusal: &Refusal) -> Standpoint {
        self.redirect(stream, refusal).unwrap_or_else(|| {
            self.refuse(stream, refusal);
            Standpoint::Refused
        })
    }

    /// Where it stands after it was sent elsewhere; None where it is not.
    fn redirect(&self, stream: Stream<'_>, refusal: &Refusal) -> Option<Standpoint> {
        if self.detour.borrow().is_some() || refusal.reason == RefusalReason::Duplicate {
            return None;
        }
        let (to, from) = self.with_flight(|flight| {
            let settings = flight.entry.facts().pool.settings();
            let to = settings.admission.as_ref()?.redirect_to.clone()?;
            Some((to, flight.entry.facts().cluster.clone()))
        })??;
        let cluster = reroute(stream, &to, &from)?;
        let flight = match self.state.replace(State::Passing) {
            State::Entered(flight) => flight,
            _ => return None,
        };
        let pool = flight.entry.facts().pool.clone();
        Statistics::redirected(&self.filter, &pool);
        *self.detour.borrow_mut() = Some(Detour {
            pool,
            reason: refusal.reason,
            waited: flight.queued,
        });
        match pool_of_cluster(&cluster) {
            Some(pool) => Some(self.enter_other(stream, *flight, pool, cluster)),
            None => {
                stream.set_header(Headers::Request, REQUEST_HEADER, None);
                let account = Account {
                    outcome: "redirected",
                    ..flight.account()
                };
                *self.state.borrow_mut() = State::Elsewhere(Box::new(account));
                Some(Standpoint::Sent)
            }
        }
    }

    /// Asks the other pool, with what was understood of the body for the first: its blocks only where the other cuts
    /// prompts into the same.
    fn enter_other(&self, stream: Stream<'_>, flight: Flight, pool: Arc<PoolState>, cluster: String) -> Standpoint {
        let facts = flight.entry.facts();
        let mut ask = Ask::read(stream, pool, cluster);
        ask.arrived = flight.arrived;
        let same = facts.pool.settings().config.block_tokens == ask.settings.config.block_tokens;
        let understood = flight.streams.map(|streams| Understood {
            model: flight.model.clone(),
            tokens: facts.tokens,
            blocks: if same { facts.blocks.clone() } else { Vec::new() },
            stream: streams,
            ..Understood::default()
        });
        let injected = flight.usage_injected;
        drop(flight); // out of the first pool's books
        let standpoint = self.enter(stream, ask, understood);
        let waited = self.detour.borrow().as_ref().map_or(0.0, |detour| detour.waited);
        let _ = self.with_flight(|flight| {
            flight.usage_injected = injected;
            flight.queued += waited;
        });
        standpoint
    }

    fn refuse(&self, stream: Stream<'_>, refusal: &Refusal) {
        let _ = self.with_flight(|flight| {
            flight.standpoint = Standpoint::Refused;
            flight.outcome = "refused";
        });
        let reason = refusal.reason.name();
        if self.has_signs_of_life() {
            let message = format!("the pool does not take this request now ({reason})");
            return self.tell_error(reason, &message, true);
        }
        let retry = refusal.retry_after_header().map(|seconds| seconds.to_string());
        let mut headers = vec![("content-type", "application/json"), ("x-headrace-reason", reason)];
        if let Some(retry) = &retry {
            headers.push(("retry-after", retry));
        }
        headers.extend(self.detour_header());
        let body = format!(
            "{{\"error\":{{\"message\":\"the pool does not take this request now ({reason})\",\"type\":\"overloaded\",\"code\":\"{reason}\"}}}}",
        );
        let details = format!("headrace_{reason}");
        stream.respond(u32::from(refusal.reason.status()), &headers, body.as_bytes(), &details);
    }

    /// Says in the answer that the request went elsewhere, and why.
    pub(super) fn tell_of_detour(&self, stream: Stream<'_>) {
        if let Some((name, reason)) = self.detour_header() {
            stream.set_header(Headers::Response, name, Some(reason.as_bytes()));
        }
    }

    /// The same for answers of our own, which Envoy does not show us.
    pub(super) fn detour_header(&self) -> Option<(&'static str, &'static str)> {
        let detour = self.detour.borrow();
        Some(("x-headrace-redirected", detour.as_ref()?.reason.name()))
    }
}
