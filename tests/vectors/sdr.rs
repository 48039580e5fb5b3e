//! `sdr.json`: sets of bits under numbers, and those that share most bits with one asked for.

use std::collections::BTreeSet;

use cortex::sdr::{Index, Sdr};
use serde_json::{Value, json};

use super::common::Rng;
use super::frozen::{number_of, sizes_of};

pub fn cases() -> Vec<Value> {
    let mut all = Vec::new();
    for (seed, (bits, items, weight)) in [
        (1, 0, 0),
        (1, 2, 1),
        (64, 6, 5),
        (65, 20, 9),
        (1000, 40, 20),
        (4096, 30, 40),
        // The most bits that an index takes.
        (1 << 20, 3, 30),
    ]
    .into_iter()
    .enumerate()
    {
        all.push(case(bits, items, weight, seed as u64 + 1));
    }
    all
}

/// `weight` different bits, in the order in which they were drawn: a caller need not sort.
fn draw(rng: &mut Rng, bits: usize, weight: usize) -> Vec<usize> {
    let mut set = Vec::new();
    while set.len() < weight {
        let bit = rng.below(bits);
        if !set.contains(&bit) {
            set.push(bit);
        }
    }
    set
}

fn case(bits: usize, count: usize, weight: usize, seed: u64) -> Value {
    let mut rng = Rng::new(seed);
    let mut items: Vec<(u64, Vec<usize>)> = Vec::new();
    for i in 0..count {
        // Numbers in no order, some large; a set now and then that is empty or there already.
        let id = (i as u64 * 7919) % 1009 + if i % 5 == 4 { 1 << 40 } else { 0 };
        let active = match i {
            3 => Vec::new(),
            i if i % 7 == 6 => items[i - 2].1.clone(),
            _ => draw(&mut rng, bits, weight),
        };
        items.push((id, active));
    }
    let mut asked: Vec<(Vec<usize>, usize)> = vec![
        (Vec::new(), 5),
        (draw(&mut rng, bits, weight.min(bits)), 0),
        (draw(&mut rng, bits, (weight * 2).min(bits)), 3),
        (draw(&mut rng, bits, (weight * 3).min(bits)), count + 5),
    ];
    for at in [0, count / 2] {
        if let Some((_, active)) = items.get(at) {
            asked.push((active.clone(), 1));
            asked.push((active.clone(), 4));
        }
    }
    let removed: Vec<u64> = items.iter().step_by(3).map(|(id, _)| *id).collect();
    let queries = |items: &[(u64, Vec<usize>)]| -> Vec<Value> {
        let one = |(active, k): &(Vec<usize>, usize)| {
            let matches: Vec<Value> = best(items, active, *k)
                .into_iter()
                .map(|(id, overlap)| json!({"id": id, "overlap": overlap}))
                .collect();
            json!({"active": active, "k": k, "matches": matches})
        };
        asked.iter().map(one).collect()
    };
    let left: Vec<_> = items
        .iter()
        .filter(|(id, _)| !removed.contains(id))
        .cloned()
        .collect();
    let list: Vec<Value> = items
        .iter()
        .map(|(id, active)| json!({"id": id, "active": active}))
        .collect();
    json!({
        "bits": bits,
        "items": list,
        "queries": queries(&items),
        "removed": removed,
        "after": queries(&left),
    })
}

/// Every set counted: most shared bits first, then the smaller number; none that shares none.
fn best(items: &[(u64, Vec<usize>)], active: &[usize], k: usize) -> Vec<(u64, usize)> {
    let asked: BTreeSet<usize> = active.iter().copied().collect();
    let overlap = |set: &[usize]| set.iter().filter(|b| asked.contains(b)).count();
    let mut all: Vec<(u64, usize)> = items.iter().map(|(id, set)| (*id, overlap(set))).collect();
    all.retain(|(_, overlap)| *overlap > 0);
    all.sort_by_key(|(id, overlap)| (std::cmp::Reverse(*overlap), *id));
    all.truncate(k);
    all
}

fn set(bits: usize, case: &Value) -> Sdr {
    let active = sizes_of(case, "active")
        .into_iter()
        .map(|b| b as u32)
        .collect();
    Sdr::new(bits, active).unwrap()
}

fn ask(index: &Index, queries: &Value) {
    for query in queries.as_array().unwrap() {
        let found = index
            .top_k(&set(index.bits(), query), number_of(query, "k"))
            .unwrap();
        let found: Vec<Value> = found
            .into_iter()
            .map(|m| json!({"id": m.id, "overlap": m.overlap}))
            .collect();
        assert_eq!(Value::from(found), query["matches"], "{query}");
    }
}

pub fn run(cases: &[Value]) {
    for case in cases {
        let bits = number_of(case, "bits");
        let mut index = Index::new(bits).unwrap();
        for item in case["items"].as_array().unwrap() {
            index
                .add(item["id"].as_u64().unwrap(), &set(bits, item))
                .unwrap();
        }
        ask(&index, &case["queries"]);
        let mut index = Index::load(&index.save()).unwrap();
        for id in case["removed"].as_array().unwrap() {
            assert!(index.remove(id.as_u64().unwrap()));
            assert!(!index.remove(id.as_u64().unwrap()));
        }
        ask(&index, &case["after"]);
    }
}
