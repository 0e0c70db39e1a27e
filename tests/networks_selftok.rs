//! A Selftok folder as a black box: the same values as the original's, through named tensors alone.

use selftok::networks::{self, NamedTensors, Values};
use selftok::{CpuOptions, Device};
use selftok_workspace::golden::path;
use selftok_workspace::{Array, Golden, assert_close, assert_same_ids};

fn network() -> networks::Network {
    let device = Device::cpu(CpuOptions { threads: 2, ..CpuOptions::default() }).unwrap();
    networks::open(path("models/mini"), &device).unwrap()
}

fn floats(array: &Array) -> Values {
    Values::F32(array.data.iter().map(|&x| x as f32).collect())
}

fn ids(array: &Array) -> Values {
    Values::I64(array.data.iter().map(|&x| x as i64).collect())
}

fn array(tensors: &NamedTensors, name: &str) -> Array {
    let tensor = tensors.get(name).unwrap_or_else(|| panic!("no result '{name}'"));
    let data = match &tensor.values {
        Values::F32(values) => values.iter().map(|&x| x.into()).collect(),
        Values::I64(values) => values.iter().map(|&x| x as f64).collect(),
    };
    Array::new(&tensor.shape, data)
}

#[test]
fn latents_give_features_and_ids_and_ids_give_latents() {
    let (network, golden) = (network(), Golden::open("models/mini/golden.safetensors"));
    let latent = golden.rows("latent", 2);
    let inputs = NamedTensors::new().with("latent", &latent.shape, floats(&latent)).unwrap();
    let results = network.run(&inputs).unwrap();
    let names: Vec<_> = results.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["hidden_states", "indices"]);
    assert_close("hidden_states", &array(&results, "hidden_states"), &golden.rows("hidden_states", 2), 1e-4);
    assert_same_ids("indices", &array(&results, "indices"), &golden.rows("indices", 2));

    let tokens = golden.rows("indices", 2);
    let inputs = NamedTensors::new().with("tokens", &tokens.shape, ids(&tokens)).unwrap();
    let results = network.run(&inputs).unwrap();
    let expected = golden.rows("rendered_latent", 2);
    assert_close("rendered_latent", &array(&results, "rendered_latent"), &expected, 1e-3);
}

#[test]
fn rows_of_different_times_are_as_if_alone() {
    let (network, golden) = (network(), Golden::open("models/mini/golden.safetensors"));
    let (tokens, x_t) = (golden.rows("indices", 2), golden.rows("latent", 2));
    let inputs = |rows: std::ops::Range<usize>, t: &[f32]| {
        let cut = |a: &Array| selftok_kernels_cpu::reference::slice(a, 0, rows.start, rows.len());
        NamedTensors::new()
            .with("tokens", &cut(&tokens).shape, ids(&cut(&tokens)))
            .and_then(|n| n.with("x_t", &cut(&x_t).shape, floats(&cut(&x_t))))
            .and_then(|n| n.with("t", &[t.len()], Values::F32(t.to_vec())))
            .unwrap()
    };
    let both = array(&network.run(&inputs(0..2, &[0.9, 0.2])).unwrap(), "velocity");
    for (row, t) in [0.9, 0.2].into_iter().enumerate() {
        let alone = array(&network.run(&inputs(row..row + 1, &[t])).unwrap(), "velocity");
        let ours = selftok_kernels_cpu::reference::slice(&both, 0, row, 1);
        assert_close("velocity", &ours, &alone, 1e-5);
    }
}

#[test]
fn what_does_not_fit_is_said_with_what_was_expected() {
    let network = network();
    let run =
        |inputs: Result<NamedTensors, selftok::Error>| network.run(&inputs.unwrap()).unwrap_err().to_string();
    let one = |name: &str, shape: &[usize]| {
        NamedTensors::new().with(name, shape, Values::F32(vec![0.0; shape.iter().product()]))
    };
    assert!(
        run(Ok(NamedTensors::new()))
            .contains("input 'latent' is missing: given are none; expected latent [B, 8, h, w]")
    );
    assert!(run(one("image", &[1])).contains("input 'image' is not one of this network; expected latent"));
    assert!(
        run(one("latent", &[1, 7, 16, 16]))
            .contains("'latent' has the shape [1, 7, 16, 16]; expected [1, 8, 16, 16]")
    );
    assert!(run(one("latent", &[0, 8, 16, 16])).contains("'latent' has the shape [0, 8, 16, 16]"));
    assert!(run(one("tokens", &[1, 64])).contains("'tokens': holds floating-point numbers"));
    let ids = NamedTensors::new().with("tokens", &[1, 64], Values::I64(vec![4096; 64]));
    assert!(run(ids).contains("4096"));
}
