//! Tests of [`super`].

use super::*;
use crate::admission::Standing;
use scheduler::admission::Decision;

fn settings(name: &str, more: &str) -> PoolSettings {
    PoolSettings::parse(format!("{{\"pool\":\"{}\"{}}}", name, more).as_bytes()).unwrap()
}

fn wanted(id: u64) -> Wanted<'static> {
    Wanted {
        id,
        tokens: 100.0,
        blocks: &[],
        session: None,
        model: None,
        tried: &[],
        absent: &[],
    }
}

#[test]
fn a_pool_is_found_by_its_clusters_as_long_as_it_lives() {
    let pool = pool_of(settings("found", ""));
    set_cluster("found-cluster", &pool);
    assert!(Arc::ptr_eq(&pool_of(settings("found", ",\"max_body_bytes\":7")), &pool));
    assert_eq!(pool_of_cluster("found-cluster").unwrap().settings().max_body_bytes, 7);
    drop(pool);
    assert!(pool_of_cluster("found-cluster").is_none());
}

#[test]
fn clusters_of_one_pool_share_its_books_but_not_their_endpoints() {
    let pool = pool_of(settings("shared", ""));
    for (cluster, names) in [("a", vec![1, 2]), ("b", vec![2, 3])] {
        pool.join(cluster);
        pool.set_endpoints(cluster, names, 0.0);
    }
    let (absent, version) = pool.absent(&[1, 2], 0).unwrap();
    assert_eq!(absent, [3]);
    assert_eq!(pool.absent(&[1, 2], version), None);
    for id in 0..10 {
        let pick = pool
            .dispatch(
                &Wanted {
                    absent: &[3],
                    ..wanted(id)
                },
                0.0,
                0.5,
            )
            .unwrap();
        assert!(pick.endpoint < 3);
    }
    assert_eq!(pool.in_flight(), 10);
    pool.leave("a", 1.0);
    assert_eq!(pool.absent(&[], version).unwrap().0, [2, 3]);
}

#[test]
fn who_was_tried_is_tried_again_only_where_there_is_no_other() {
    let pool = pool_of(settings("tried", ""));
    pool.join("a");
    pool.set_endpoints("a", vec![1, 2], 0.0);
    let mut retry = wanted(1);
    retry.tried = &[1];
    assert_eq!(pool.dispatch(&retry, 0.0, 0.5).unwrap().endpoint, 2);
    retry.tried = &[1, 2];
    assert!(pool.dispatch(&retry, 0.0, 0.5).is_some());
    assert_eq!(pool.in_flight(), 1);
    retry.absent = &[1, 2];
    assert!(pool.dispatch(&retry, 0.0, 0.5).is_none());
    pool.finish(1, 1.0);
    assert_eq!(pool.in_flight(), 0);
}

#[test]
fn sessions_stay_where_they_are() {
    let pool = pool_of(settings("sessions", ",\"policy\":\"round-robin\""));
    pool.join("a");
    pool.set_endpoints("a", vec![1, 2, 3], 0.0);
    let mut request = wanted(1);
    request.session = Some(42);
    let first = pool.dispatch(&request, 0.0, 0.5).unwrap().endpoint;
    for id in 2..20 {
        request.id = id;
        assert_eq!(pool.dispatch(&request, 0.0, 0.5).unwrap().endpoint, first);
    }
}

const LIMITED: &str = ",\"admission\":{\"concurrency_per_endpoint\":2,\"queue\":{\"requests\":9}}";

fn arrive(pool: &Arc<PoolState>, id: u64) -> bool {
    let arrival = Standing::default().arrival(id, 0, 1.0, 0.0);
    pool.admission().arrive(&arrival, 0.0) == Decision::Admit
}

#[test]
fn no_endpoint_gets_more_than_it_may_while_another_has_room() {
    for policy in [
        "predicted-drain",
        "least-request",
        "round-robin",
        "prefix",
        "random-two",
    ] {
        let more = format!(",\"policy\":\"{policy}\"{LIMITED}");
        let pool = pool_of(settings(&format!("limited-{policy}"), &more));
        pool.join("a");
        pool.set_endpoints("a", vec![1, 2, 3], 0.0);
        let mut request = wanted(0);
        request.blocks = &[7, 8, 9];
        request.session = Some(42);
        let mut picks = Vec::new();
        for id in 0..6 {
            request.id = id;
            picks.push(pool.dispatch(&request, 0.0, 0.5).unwrap().endpoint);
        }
        picks.sort_unstable();
        assert_eq!(picks, [1, 1, 2, 2, 3, 3], "{policy}");
        assert_eq!(pool.take_overfull(), 0);
    }
}

#[test]
fn where_all_are_full_the_emptiest_gets_it_and_that_is_counted() {
    let pool = pool_of(settings("overfull", LIMITED));
    pool.join("a");
    pool.set_endpoints("a", vec![1, 2], 0.0);
    for id in 0..5 {
        assert!(pool.dispatch(&wanted(id), 0.0, 0.5).is_some());
    }
    let mut retry = wanted(9);
    retry.tried = &[2];
    assert_eq!(pool.dispatch(&retry, 0.0, 0.5).unwrap().endpoint, 1);
    assert_eq!((pool.take_overfull(), pool.take_overfull()), (2, 0));
}

#[test]
fn a_session_whose_endpoint_is_full_goes_elsewhere_and_comes_back() {
    let pool = pool_of(settings("home", LIMITED));
    pool.join("a");
    pool.set_endpoints("a", vec![1, 2], 0.0);
    let mut request = wanted(1);
    request.session = Some(42);
    let home = pool.dispatch(&request, 0.0, 0.5).unwrap().endpoint;
    request.id = 2;
    assert_eq!(pool.dispatch(&request, 0.0, 0.5).unwrap().endpoint, home);
    request.id = 3;
    assert_ne!(pool.dispatch(&request, 0.0, 0.5).unwrap().endpoint, home);
    pool.finish(1, 1.0);
    request.id = 4;
    assert_eq!(pool.dispatch(&request, 1.0, 0.5).unwrap().endpoint, home);
}

#[test]
fn requests_at_an_endpoint_that_drains_take_no_place_of_the_others() {
    let pool = pool_of(settings("drains", LIMITED));
    pool.join("a");
    pool.set_endpoints("a", vec![1, 2], 0.0);
    let mut at = HashMap::new();
    for id in 0..4 {
        assert!(arrive(&pool, id));
        let _ = at.insert(pool.dispatch(&wanted(id), 0.0, 0.5).unwrap().endpoint, id);
    }
    assert!(!arrive(&pool, 4));
    let end = |id: u64| {
        pool.finish(id, 1.0);
        admission::leave(&pool, id);
        pool.admission().waiting()
    };
    pool.set_hosts("a", vec![1, 2], vec![1], 0.0);
    pool.set_hosts("a", vec![1], vec![1], 0.0); // and now it is gone, though its requests run on
    assert_eq!(end(at[&2]), 1);
    assert_eq!(end(at[&1]), 0);
}

#[test]
fn the_last_cluster_takes_those_that_wait_with_it() {
    let pool = pool_of(settings("gone", LIMITED));
    pool.join("a");
    pool.set_endpoints("a", vec![1], 0.0);
    assert!(arrive(&pool, 1) && arrive(&pool, 2) && !arrive(&pool, 3));
    assert_eq!(pool.admission().waiting(), 1);
    pool.leave("a", 1.0);
    assert_eq!(pool.admission().waiting(), 0);
}

#[test]
fn clusters_of_a_pool_wait_for_places_of_their_own() {
    let pool = pool_of(settings("subsets", LIMITED));
    for (cluster, names) in [("a", vec![1]), ("b", vec![2, 3])] {
        pool.join(cluster);
        pool.set_endpoints(cluster, names, 0.0);
    }
    let arrive = |cluster: &str, id: u64| {
        let group = crate::request::hash_of(cluster.as_bytes());
        let arrival = Standing::default().arrival(id, group, 1.0, 0.0);
        pool.admission().arrive(&arrival, 0.0) == Decision::Admit
    };
    let send = |id: u64| {
        let to_a = Wanted {
            absent: &[2, 3],
            ..wanted(id)
        };
        pool.dispatch(&to_a, 0.0, 0.5).unwrap().endpoint
    };
    assert!(arrive("a", 1) && arrive("a", 2) && !arrive("a", 3));
    assert_eq!((send(1), send(2)), (1, 1));
    assert!(!arrive("a", 4) && arrive("b", 5), "there is room for the other");
    assert_eq!(pool.admission().waiting(), 2);
    pool.finish(1, 1.0);
    admission::leave(&pool, 1);
    assert_eq!(pool.admission().waiting(), 0); // those two are without streams: as if they had just gone
    let _ = pool_of(settings("subsets", ""));
    assert!((10..20).all(|id| arrive("a", id)));
}

#[test]
fn a_request_for_an_adapter_goes_where_an_engine_says_that_it_runs() {
    let pool = pool_of(settings("adapters", ""));
    pool.join("c");
    pool.set_endpoints("c", vec![1, 2, 3], 0.0);
    let asks = |id| Wanted {
        model: Some(77),
        ..wanted(id)
    };
    let says = |adapters: Vec<u64>| Load {
        most_adapters: Some(4.0),
        adapters,
        ..Load::default()
    };
    pool.observe(3, &says(vec![77]), None);
    for name in [1, 2] {
        pool.observe(name, &says(Vec::new()), None);
    }
    for id in 0..6 {
        assert_eq!(pool.dispatch(&asks(id), 0.0, 0.5).unwrap().endpoint, 3);
        pool.first_token(id, 0.01);
    }
    assert_ne!(pool.dispatch(&wanted(9), 0.02, 0.5).unwrap().endpoint, 3); // the base model
    let many = says((1000..1_000_000).collect());
    pool.observe(1, &many, None);
    assert!(locked(&pool.books).adapters.len() <= MOST_ADAPTERS);
}

#[test]
fn an_engine_that_says_its_slots_is_not_filled_beyond_them_while_others_have_room() {
    let pool = pool_of(settings("slots", ""));
    pool.join("c");
    pool.set_endpoints("c", vec![1, 2], 0.0);
    let said = Load {
        slots: Some(2.0),
        ..Load::default()
    };
    pool.observe(1, &said, None);
    pool.observe(2, &said, None);
    pool.dispatch(&wanted(1), 0.0, 0.5).unwrap();
    let full = pool.dispatch(&wanted(2), 0.0, 0.5).unwrap().endpoint;
    let _ = (pool.dispatch(&wanted(3), 0.0, 0.5), pool.dispatch(&wanted(4), 0.0, 0.5));
    let taken = |name| locked(&pool.books).pool.in_flight_on(name);
    assert_eq!((taken(1), taken(2)), (2, 2), "{full}");
}

#[test]
fn with_learned_places_requests_wait_here_for_one_more_than_an_endpoint_runs() {
    let admission = ",\"admission\":{\"learned_concurrency\":true,\"queue\":{\"requests\":9}}";
    let pool = pool_of(settings("learned", admission));
    pool.join("c");
    pool.set_endpoints("c", vec![1, 2], 0.0);
    let group = crate::request::hash_of(b"c");
    let arrive = |id| {
        let decision = pool
            .admission()
            .arrive(&Standing::default().arrival(id, group, 1.0, 0.0), 0.0);
        if decision == Decision::Admit {
            let _ = pool.dispatch(&wanted(id), 0.0, 0.5).unwrap();
        }
        decision
    };
    assert!((0..20).all(|id| arrive(id) == Decision::Admit)); // nothing is known
    for id in 0..20 {
        pool.finish(id, 0.0);
        crate::admission::leave(&pool, id);
    }
    let said = Load {
        slots: Some(2.0),
        ..Load::default()
    };
    pool.observe(1, &said, None);
    pool.observe(2, &said, None);
    assert!((100..106).all(|id| arrive(id) == Decision::Admit));
    let taken = |name| locked(&pool.books).places.taken(name);
    assert_eq!((taken(1), taken(2)), (3, 3));
    assert!(matches!(arrive(106), Decision::Hold { .. }));
    pool.finish(100, 0.0);
    crate::admission::leave(&pool, 100);
    assert_eq!(pool.admission().waiting(), 0);
}
