//! The engine's behaviour, rule by rule.

use super::*;

fn job(id: u64, prompt: usize, answer: usize, blocks: &[u64]) -> Job {
    Job {
        id,
        prompt,
        answer,
        blocks: blocks.into(),
    }
}

/// Run until idle; (id, index, time) of every token.
fn run(engine: &mut Engine) -> Vec<(u64, usize, f64)> {
    let mut now = 0.0;
    let mut tokens = Vec::new();
    let mut produced = Vec::new();
    while let Some(seconds) = engine.begin_step() {
        now += seconds;
        engine.end_step(&mut produced);
        tokens.extend(produced.drain(..).map(|one| (one.id, one.index, now)));
    }
    tokens
}

fn first_tokens(tokens: &[(u64, usize, f64)]) -> Vec<(u64, f64)> {
    let firsts = tokens.iter().filter(|(_, index, _)| *index == 0);
    firsts.map(|&(id, _, at)| (id, at)).collect()
}

#[test]
fn every_token_is_made_once_and_in_order() {
    let mut engine = Engine::new(EngineConfig::default());
    for id in 0..50 {
        engine
            .submit(job(id, 100 + 37 * id as usize, 1 + id as usize, &[]))
            .unwrap();
    }
    let tokens = run(&mut engine);
    for id in 0..50 {
        let indices: Vec<usize> = tokens.iter().filter(|one| one.0 == id).map(|one| one.1).collect();
        assert_eq!(indices, (0..=id as usize).collect::<Vec<_>>());
    }
    assert!(engine.is_idle());
    assert_eq!(engine.kv_used(), 0.0);
}

#[test]
fn concurrent_prompts_share_the_processor() {
    let alone = {
        let mut engine = Engine::new(EngineConfig::default());
        engine.submit(job(0, 8000, 1, &[])).unwrap();
        run(&mut engine)[0].2
    };
    let mut engine = Engine::new(EngineConfig::default());
    for id in 0..4 {
        engine.submit(job(id, 8000, 1, &[])).unwrap();
    }
    let last = run(&mut engine)[3].2;
    assert!((3.8..4.05).contains(&(last / alone)), "{}", last / alone);
}

#[test]
fn a_prompt_is_computed_in_chunks_between_which_others_decode() {
    let mut engine = Engine::new(EngineConfig::default());
    engine.submit(job(1, 100, 500, &[])).unwrap();
    engine.begin_step().unwrap();
    engine.end_step(&mut Vec::new());
    engine.submit(job(2, 20_000, 1, &[])).unwrap();
    let tokens = run(&mut engine);
    let at = tokens.iter().position(|one| one.0 == 2).unwrap();
    assert_eq!(at, 10); // 20,000 tokens in chunks of 2047 take ten steps, in each of which the other decoded
}

#[test]
fn a_cached_prefix_is_not_computed_again_but_its_last_token_is() {
    let blocks: Vec<u64> = (0..16).collect();
    let mut engine = Engine::new(EngineConfig::default());
    engine.submit(job(1, 8192, 1, &blocks)).unwrap();
    let cold = run(&mut engine)[0].2;
    assert_eq!(engine.cached_tokens(&blocks), 8192);
    engine.submit(job(2, 8192, 1, &blocks)).unwrap();
    let warm = run(&mut engine)[0].2;
    assert!(warm < cold / 8.0);
    assert_eq!(engine.hit_tokens(), 15 * 512);
}

#[test]
fn the_queue_is_first_come_first_served_and_sequences_are_bounded() {
    let config = EngineConfig {
        sequences: 2,
        ..EngineConfig::default()
    };
    let mut engine = Engine::new(config);
    for id in 0..6 {
        engine.submit(job(id, 10, 20, &[])).unwrap();
    }
    let _ = engine.begin_step();
    assert_eq!((engine.running(), engine.waiting()), (2, 4));
    engine.end_step(&mut Vec::new());
    let order: Vec<u64> = first_tokens(&run(&mut engine)).iter().map(|one| one.0).collect();
    assert_eq!(order, [2, 3, 4, 5]);
}

#[test]
fn where_blocks_run_out_the_newest_starts_over_and_all_end() {
    let config = EngineConfig {
        kv_tokens: 2048,
        ..EngineConfig::default()
    };
    let mut engine = Engine::new(config);
    for id in 0..4 {
        engine.submit(job(id, 400, 800, &[])).unwrap();
    }
    let tokens = run(&mut engine);
    assert!(engine.preemptions() > 0);
    assert_eq!(tokens.len(), 4 * 800);
    assert_eq!(engine.kv_used(), 0.0);
}

#[test]
fn what_can_never_run_is_refused() {
    let mut engine = Engine::new(EngineConfig::default());
    assert_eq!(engine.submit(job(1, 400_000, 1, &[])), Err(Refused));
    assert_eq!(engine.submit(job(1, 399_999, 1, &[])), Ok(()));
}

#[test]
fn a_cancelled_job_gives_everything_back() {
    let blocks: Vec<u64> = (0..16).collect();
    let mut engine = Engine::new(EngineConfig::default());
    engine.submit(job(1, 8192, 100, &blocks)).unwrap();
    engine.submit(job(2, 8192, 100, &[])).unwrap();
    engine.begin_step().unwrap();
    engine.cancel(1);
    engine.cancel(2);
    let mut produced = Vec::new();
    engine.end_step(&mut produced);
    assert!(produced.is_empty() && engine.is_idle());
    assert_eq!(engine.kv_used(), 0.0);
}
