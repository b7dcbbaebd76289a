//! Files good, bad and hostile, and what the pools make of them.

use super::*;
use crate::pools::{pool_of, Wanted};
use crate::settings::PoolSettings;
use std::os::unix::fs::PermissionsExt;

const A: &str = "127.0.0.1:1";
const B: &str = "127.0.0.1:2";

fn pool(name: &str) -> Arc<PoolState> {
    let settings = format!("{{\"pool\":\"{name}\",\"policy\":\"least-request\"}}");
    let pool = pool_of(PoolSettings::parse(settings.as_bytes()).unwrap());
    pool.join("c");
    pool.set_endpoints("c", vec![hash_of(A.as_bytes()), hash_of(B.as_bytes())], 0.0);
    pool
}

fn picked(pool: &Arc<PoolState>, id: u64, now: f64) -> u64 {
    let wanted = Wanted {
        id,
        tokens: 100.0,
        blocks: &[],
        session: None,
        model: None,
        tried: &[],
        absent: &[],
    };
    pool.dispatch(&wanted, now, 0.0).unwrap().endpoint
}

fn page(written: f64, text: &str) -> Page {
    parse(format!("headrace-engine-loads 1 {}\n{text}", (written * 1000.0) as u64).as_bytes()).unwrap()
}

#[test]
fn lines_are_read_and_what_is_none_is_passed_over() {
    let found = page(
        1000.0,
        "127.0.0.1:1 age_ms=250 waiting=3 running=4.5 kv_used=0.5 kv_tokens=1000\n\
         [::1]:8000 age_ms=0\n\
         127.0.0.1:2 age_ms=0 waiting=1 of_a_newer_agent=7\n\
         \n127.0.0.1:3 waiting=1\n127.0.0.1:4 age_ms=-1\n127.0.0.1:5 age_ms=0 waiting=NaN\n\
         127.0.0.1:6 age_ms=0 waiting\n127.0.0.1:7 age_ms=0 waiting=-1\n127.0.0.1:8 age_ms=x\n age_ms=0\n",
    );
    assert_eq!(found.written, 1000.0);
    assert_eq!(found.lines.len(), 3);
    let first = &found.lines[0];
    assert_eq!((first.name, first.age), (hash_of(A.as_bytes()), 0.25));
    let said = Load {
        waiting: Some(3.0),
        running: Some(4.5),
        kv_used: Some(0.5),
        kv_tokens: Some(1000.0),
        ..Load::default()
    };
    assert_eq!(first.load, said);
    assert_eq!(found.lines[1].load, Load::default());
}

#[test]
fn adapters_are_read_from_a_line_of_their_own() {
    let found = page(
        0.0,
        "127.0.0.1:1 age_ms=5 waiting=3 slots=8 most_adapters=2\n\
         127.0.0.1:1 age_ms=5 adapters=fr,de%2Cat%20%C3%A9,%2,%zz\n\
         127.0.0.1:2 age_ms=5 adapters=it\n",
    );
    let names: Vec<&str> = vec!["fr", "de,at \u{e9}", "%2", "%zz"];
    let said = Load {
        waiting: Some(3.0),
        slots: Some(8.0),
        most_adapters: Some(2.0),
        adapters: names.iter().map(|name| hash_of(name.as_bytes())).collect(),
        ..Load::default()
    };
    assert_eq!(found.lines.len(), 2);
    assert_eq!(found.lines[0].load, said);
    assert_eq!(found.lines[1].load.adapters, [hash_of(b"it")]);
    let many = format!("127.0.0.1:1 age_ms=0 adapters={}\n", "x,".repeat(100_000));
    assert_eq!(page(0.0, &many).lines[0].load.adapters.len(), MOST_ADAPTERS);
}

#[test]
fn another_kind_of_file_is_no_page_and_everything_is_bounded() {
    for text in [
        "",
        "\n",
        "headrace-engine-loads",
        "headrace-engine-loads 2 1000",
        "headrace-engine-loads 1 x",
        "headrace-engine-loads 1 -5",
        "{\"loads\": []}",
        "\u{0}\u{1}",
    ] {
        assert_eq!(parse(text.as_bytes()), None, "{text:?}");
    }
    assert_eq!(parse(&[0xff; 4096]), None);
    let many = "127.0.0.1:1 age_ms=0\n".repeat(20_000);
    assert_eq!(page(0.0, &many).lines.len(), MOST_LINES);
    let lies = page(0.0, "127.0.0.1:1 age_ms=0 waiting=1e300 kv_used=9 kv_tokens=1e300\n").lines[0]
        .load
        .clone();
    assert_eq!(
        (lies.waiting, lies.kv_used, lies.kv_tokens),
        (Some(MOST_REQUESTS), Some(1.0), Some(MOST_TOKENS))
    );
}

#[test]
fn what_is_said_steers_picks_and_counts_no_more_once_it_is_stale() {
    let (pool, mut reader) = (pool("loads-steer"), Reader::default());
    let pools = [pool.clone()];
    reader.history.note(&pools, 10.0);
    reader.hear(
        &page(1000.0, "127.0.0.1:1 age_ms=100 waiting=40 running=8\n"),
        1000.2,
        &pools,
        10.0,
    );
    for id in 0..5 {
        assert_eq!(picked(&pool, id, 10.0), hash_of(B.as_bytes()));
    }
    reader.forget(&pools, 14.6);
    assert_eq!(picked(&pool, 6, 14.6), hash_of(B.as_bytes()));
    reader.forget(&pools, 14.8);
    assert_eq!(picked(&pool, 7, 14.8), hash_of(A.as_bytes()));
    assert!(reader.said.is_empty());
}

#[test]
fn what_ended_since_the_engine_was_asked_is_nobody_else_s() {
    let (pool, mut reader) = (pool("loads-then"), Reader::default());
    let pools = [pool.clone()];
    for id in 0..4 {
        let _ = picked(&pool, id, 9.0);
    }
    reader.history.note(&pools, 9.25);
    for id in 0..4 {
        pool.finish(id, 9.5);
    }
    reader.history.note(&pools, 10.0);
    let said = "127.0.0.1:1 age_ms=600 running=2\n127.0.0.1:2 age_ms=600 running=2\n";
    reader.hear(&page(1000.0, said), 1000.0, &pools, 10.0);
    let first = picked(&pool, 5, 10.0);
    assert_ne!(picked(&pool, 6, 10.0), first); // both are empty, so they take turns
    reader.hear(&page(1001.0, "127.0.0.1:2 age_ms=0 running=3\n"), 1001.0, &pools, 11.0);
    assert_eq!(picked(&pool, 7, 11.0), hash_of(A.as_bytes()));
}

#[test]
fn an_endpoint_that_comes_later_hears_what_was_said() {
    let (pool, mut reader) = (pool("loads-later"), Reader::default());
    let pools = [pool.clone()];
    let (a, b) = (hash_of(A.as_bytes()), hash_of(B.as_bytes()));
    pool.set_endpoints("c", vec![b], 0.0);
    reader.history.note(&pools, 10.0);
    reader.hear(&page(1000.0, "127.0.0.1:1 age_ms=0 waiting=40\n"), 1000.0, &pools, 10.0);
    reader.history.note(&pools, 10.25);
    reader.greet(&pools);
    pool.set_endpoints("c", vec![a, b], 10.3);
    reader.history.note(&pools, 10.5);
    reader.greet(&pools);
    for id in 0..5 {
        assert_eq!(picked(&pool, id, 10.5), b);
    }
}

#[test]
fn a_burst_of_our_own_between_two_looks_is_known() {
    let (pool, mut reader) = (pool("loads-burst"), Reader::default());
    let pools = [pool.clone()];
    reader.history.note(&pools, 9.5);
    let hosts: Vec<u64> = (0..6).map(|id| picked(&pool, id, 9.6)).collect();
    assert_eq!(hosts.iter().filter(|&&host| host == hosts[0]).count(), 3);
    (0..6).for_each(|id| pool.finish(id, 9.65));
    reader.history.note(&pools, 10.0);
    let said = "127.0.0.1:1 age_ms=380 running=3\n127.0.0.1:2 age_ms=380 running=0\n";
    reader.hear(&page(1000.0, said), 1000.0, &pools, 10.0);
    let first = picked(&pool, 7, 10.0);
    assert_ne!(picked(&pool, 8, 10.0), first); // both are empty, so they take turns
}

#[test]
fn old_words_and_those_of_the_future_do_no_harm() {
    let (pool, mut reader) = (pool("loads-time"), Reader::default());
    let pools = [pool.clone()];
    let busy = "127.0.0.1:1 age_ms=0 waiting=40\n";
    reader.hear(&page(1000.0, busy), 1006.0, &pools, 10.0);
    reader.hear(
        &page(1000.0, "127.0.0.1:1 age_ms=6000 waiting=40\n"),
        1000.0,
        &pools,
        10.0,
    );
    assert!(reader.said.is_empty());
    reader.hear(&page(9_999_999.0, busy), 1000.0, &pools, 10.0); // the clock was set back since
    assert_eq!(reader.said[&hash_of(A.as_bytes())].at, 10.0);
    reader.forget(&pools, 15.1);
    let first = picked(&pool, 1, 15.1);
    assert_ne!(picked(&pool, 2, 15.1), first); // both are empty, so they take turns
}

#[test]
fn history_is_bounded_in_time() {
    let pools = [pool("loads-history")];
    let mut history = History::default();
    (0..1000).for_each(|moment| history.note(&pools, f64::from(moment) * PERIOD));
    assert!(history.moments.len() < 30);
    let key = hash_of(b"loads-history");
    assert!(history.around(999.0 * PERIOD, key, hash_of(A.as_bytes())).is_some());
    assert_eq!(history.around(0.0, key, hash_of(A.as_bytes())), None);
}

#[test]
fn only_a_private_regular_file_that_changed_is_read() {
    let directory = std::env::temp_dir().join(format!("headrace-loads-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let file = directory.join("loads");
    let mut reader = Reader::default();
    assert_eq!(reader.changed(&file), None);
    let put = |text: &[u8], mode: u32| {
        let new = directory.join("new");
        fs::write(&new, text).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(mode)).unwrap();
        fs::rename(&new, &file).unwrap();
    };
    put(b"headrace-engine-loads 1 1000\n", 0o600);
    assert!(reader.changed(&file).is_some());
    assert_eq!(reader.changed(&file), None);
    put(b"headrace-engine-loads 1 1000\n", 0o622);
    assert_eq!(reader.changed(&file), None);
    put(&vec![b'x'; MOST_BYTES as usize + 1], 0o600);
    assert_eq!(reader.changed(&file), None);
    put(b"headrace-engine-loads 1 2000\n", 0o600);
    assert_eq!(reader.changed(&file).unwrap().written, 2.0);
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    assert_eq!(reader.changed(&file), None);
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn what_answers_tell_counts_for_five_seconds() {
    let pool = pool("loads-heard");
    let said = Load {
        waiting: Some(40.0),
        ..Load::default()
    };
    pool.hear(hash_of(A.as_bytes()), &said, 10.0);
    for id in 0..5 {
        assert_eq!(picked(&pool, id, 14.0), hash_of(B.as_bytes()));
    }
    assert_eq!(picked(&pool, 6, 15.1), hash_of(A.as_bytes()));
}

#[test]
fn who_is_heard_is_forgotten_in_time() {
    let (mut heard, mut gone) = (Heard::default(), Vec::new());
    heard.note(1, 10.0);
    heard.note(2, 12.0);
    heard.expire(15.0, |name| gone.push(name));
    assert!(gone.is_empty());
    heard.expire(15.5, |name| gone.push(name));
    heard.expire(16.9, |name| gone.push(name));
    assert_eq!(gone, [1]);
    heard.note(2, 16.9);
    heard.expire(21.0, |name| gone.push(name));
    heard.expire(22.0, |name| gone.push(name));
    assert_eq!(gone, [1, 2]);
}
