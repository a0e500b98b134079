//! Every seed once, without a fuzzer: `cargo test --manifest-path fuzz/Cargo.toml`.

use std::fs;
use std::path::Path;

fn replay(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    let mut seeds: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    seeds.sort();
    assert!(!seeds.is_empty(), "{} holds no seeds", folder.display());
    for seed in seeds {
        println!("{}", seed.display());
        check(&fs::read(&seed).unwrap());
    }
}

#[test]
fn every_head_seed_holds() {
    replay("http1_head", penstock_fuzz::head::check);
}

#[test]
fn every_body_seed_holds() {
    replay("http1_body", penstock_fuzz::body::check);
}

#[test]
fn every_response_seed_holds() {
    replay("http1_response", penstock_fuzz::response::check);
}

#[test]
fn every_connection_seed_holds() {
    replay("http1_connection", penstock_fuzz::connection::check);
}

#[test]
fn every_framing_seed_holds() {
    replay("framing", penstock_fuzz::framing::check);
}

#[test]
fn every_proxied_seed_holds() {
    replay("proxied", penstock_fuzz::proxied::check);
}

#[test]
fn every_structure_seed_holds() {
    replay("slab_timer_segments", penstock_fuzz::structures::check);
}
