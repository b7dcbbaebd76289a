//! The mirror forgets what engines forget, and no more.

use super::*;

const SIZE: CacheSize = CacheSize {
    tokens: 40.0,
    block_tokens: 10.0,
    most_blocks: 100,
};

fn serve(residency: &mut Residency, blocks: &[u64]) {
    let number = residency.sent(blocks, 0.0, SIZE);
    residency.computed(blocks);
    residency.ended(number, blocks, SIZE, 0.0);
}

#[test]
fn what_is_being_computed_counts_and_what_failed_does_not() {
    let mut residency = Residency::default();
    let number = residency.sent(&[1, 2], 0.0, SIZE);
    assert_eq!(residency.matching(&[1, 2, 3]), 2);
    residency.ended(number, &[1, 2], SIZE, 0.0);
    assert_eq!(residency.matching(&[1, 2, 3]), 0);
    assert!(residency.blocks.is_empty());
}

#[test]
fn ends_of_old_prompts_go_first_and_held_blocks_never() {
    let mut residency = Residency::default();
    serve(&mut residency, &[1, 2, 3]);
    let _ = residency.sent(&[10, 11], 0.0, SIZE);
    assert_eq!(residency.matching(&[1, 2, 3]), 2);
    assert_eq!(residency.take_dropped(), [Dropped { block: 3, place: 2 }]);
    serve(&mut residency, &[20, 21, 22]);
    assert_eq!(residency.matching(&[10, 11]), 2);
    assert_eq!(residency.claimed_tokens(10.0), 20.0);
}

#[test]
fn what_requests_have_alone_takes_room_from_blocks() {
    let mut residency = Residency::default();
    serve(&mut residency, &[1, 2, 3]);
    assert_eq!(residency.evictions(25.0, SIZE), 1.5);
    let number = residency.sent(&[], 25.0, SIZE);
    assert_eq!(residency.matching(&[1, 2, 3]), 1);
    residency.ended(number, &[], SIZE, 0.0);
    assert_eq!(residency.claimed_tokens(10.0), 0.0);
}

#[test]
fn two_long_prompts_that_take_turns_drive_each_other_out() {
    let mut residency = Residency::default();
    let (one, other): (Vec<u64>, Vec<u64>) = ((0..3).collect(), (10..13).collect());
    let _ = residency.sent(&one, 0.0, SIZE);
    assert_eq!(residency.surviving(&one, SIZE), 3);
    let _ = residency.sent(&other, 0.0, SIZE);
    assert_eq!(residency.surviving(&other, SIZE), 3);
    // By the time a third one is admitted, the second took all room but that of one block.
    assert_eq!(residency.matching(&one), 3);
    assert_eq!(residency.surviving(&one, SIZE), 1);
    let _ = residency.sent(&one, 0.0, SIZE);
    assert_eq!(residency.surviving(&one, SIZE), 3);
    assert_eq!(residency.surviving(&other, SIZE), 1);
}

#[test]
fn memory_stays_bounded_whatever_comes() {
    let mut residency = Residency::default();
    for round in 0..20_000u64 {
        serve(&mut residency, &[round % 3, 10 + round % 7, 100 + round]);
        assert!(residency.blocks.len() <= 4);
        assert!(residency.idle.len() <= 2 * 4 + 64 + 3);
        assert!(residency.take_dropped().len() <= 3);
    }
}

#[test]
fn a_hot_block_survives_many_cold_ones() {
    let mut residency = Residency::default();
    for round in 0..1000u64 {
        serve(&mut residency, &[7, 1000 + round]);
        assert_eq!(residency.matching(&[7]), 1);
    }
}
