//! Random networks give the same result compiled as evaluated op by op, with every pass on and with any one off.

use selftok_graph::Program;
use selftok_workspace::backend::{self, Backend, Reference};
use selftok_workspace::{Array, random};

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

fn check(seed: u64, backends: &[Box<dyn Backend>]) {
    let random::Case { graph, inputs, table } = random::case(seed);
    let shapes: std::collections::HashMap<String, Vec<usize>> =
        graph.weights().map(|(_, value)| (value.name.clone(), value.shape.sizes())).collect();
    let weights = |name: &str| {
        let shape = shapes.get(name)?;
        Some(random::weight(name, shape.iter().product(), shape[1..].iter().product()))
    };
    let entry = graph.name.clone();
    let program = Program::from(graph);
    let expected = Reference.open(&program, &weights).run(&entry, &inputs, &table);
    for backend in backends {
        let found = backend.open(&program, &weights).run(&entry, &inputs, &table);
        for (name, expected) in &expected {
            agree(&format!("seed {seed}, {}, {name}", backend.name()), &found[name], expected);
        }
    }
}

#[test]
fn random_networks_compute_what_their_ops_say_whatever_pass_is_off() {
    let mut backends = backend::engines();
    backends
        .extend(PASSES.iter().map(|pass| Box::new(backend::Engine::without(&[pass])) as Box<dyn Backend>));
    for seed in 0..120 {
        check(seed, &backends);
    }
}

#[test]
#[ignore = "thousands of networks: a minute"]
fn many_random_networks_compute_what_their_ops_say() {
    let mut backends = backend::engines();
    backends
        .extend(PASSES.iter().map(|pass| Box::new(backend::Engine::without(&[pass])) as Box<dyn Backend>));
    for seed in 1000..3000 {
        check(seed, &backends);
    }
}
