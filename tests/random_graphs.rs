//! Random networks give the same result compiled as evaluated op by op, with every pass on and with any one off.

use selftok_graph::{Graph, Program};
use selftok_workspace::backend::{self, Backend, Reference};
use selftok_workspace::{Array, Named, Slots, random, random_packed};

/// Names that `SELFTOK_OFF` takes, each of which must not change a result.
const PASSES: [&str; 13] = [
    "fold",
    "fuse",
    "fuse.linear",
    "fuse.norm",
    "fuse.conv",
    "fuse.upsample",
    "fuse.map",
    "bind.share",
    "place.concat",
    "place.direct",
    "place.inplace",
    "place.reuse",
    "schedule",
];

/// Where the reference is a number, the other must be the same number up to rounding; rows that are not live are
/// not compared.
fn agree(what: &str, found: &Array, expected: &Array) {
    assert_eq!(found.shape, expected.shape, "{what}: shape");
    let largest = expected.data.iter().filter(|x| x.is_finite()).fold(1.0f64, |m, x| m.max(x.abs()));
    for (i, (a, b)) in found.data.iter().zip(&expected.data).enumerate() {
        let near = b.is_nan() || (a - b).abs() <= 2e-5 * largest;
        assert!(near, "{what}: element {i} is {a}, the reference says {b} (largest {largest})");
    }
}

/// Runs a network as often as there are inputs, each run going on from the states that the one before it left.
fn check(seed: u64, graph: Graph, runs: &[(Named, Vec<Slots>)], backends: &[Box<dyn Backend>]) {
    let shapes: std::collections::HashMap<String, Vec<usize>> =
        graph.weights().map(|(_, value)| (value.name.clone(), value.shape.sizes())).collect();
    let weights = |name: &str| {
        let shape = shapes.get(name)?;
        Some(random::weight(name, shape.iter().product(), shape[1..].iter().product()))
    };
    let entry = graph.name.clone();
    let program = Program::from(graph);
    let results = |backend: &dyn Backend| -> Vec<Named> {
        let mut session = backend.open(&program, &weights);
        runs.iter().map(|(inputs, table)| session.run(&entry, inputs, table)).collect()
    };
    let expected = results(&Reference);
    for backend in backends {
        for (i, (expected, found)) in expected.iter().zip(results(&**backend)).enumerate() {
            for (name, expected) in expected {
                let what = format!("{entry} (seed {seed}), run {i}, {}, {name}", backend.name());
                agree(&what, &found[name], expected);
            }
        }
    }
}

/// Every instruction set, and every pass off in turn.
fn backends() -> Vec<Box<dyn Backend>> {
    let mut backends = backend::engines();
    backends
        .extend(PASSES.iter().map(|pass| Box::new(backend::Engine::without(&[pass])) as Box<dyn Backend>));
    backends
}

fn dense(seeds: std::ops::Range<u64>) {
    let backends = backends();
    for seed in seeds {
        let random::Case { graph, inputs, table } = random::case(seed);
        check(seed, graph, &[(inputs, table)], &backends);
    }
}

fn packed(seeds: std::ops::Range<u64>) {
    let backends = backends();
    for seed in seeds {
        let random_packed::Case { graph, runs } = random_packed::case(seed);
        let runs: Vec<_> = runs.into_iter().map(|(inputs, slots)| (inputs, vec![slots])).collect();
        check(seed, graph, &runs, &backends);
    }
}

#[test]
fn random_networks_compute_what_their_ops_say_whatever_pass_is_off() {
    dense(0..120);
}

#[test]
fn random_causal_networks_decode_over_their_caches_as_their_ops_say_whatever_pass_is_off() {
    packed(0..60);
}

#[test]
#[ignore = "thousands of networks: a minute"]
fn many_random_networks_compute_what_their_ops_say() {
    dense(1000..3000);
}

#[test]
#[ignore = "hundreds of networks: a minute"]
fn many_random_causal_networks_decode_as_their_ops_say() {
    packed(1000..2000);
}
