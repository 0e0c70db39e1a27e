//! Real trained models against other runtimes. `real_models.py` fetches them; a model that is not there is skipped,
//! which is said.

use selftok::Device;
use selftok::networks::{self, NamedTensors, Values};
use selftok_workspace::{Array, Golden, assert_close, path};

/// The folder of a fetched model, or `None`, said aloud.
fn fetched(name: &str) -> Option<String> {
    let folder = format!("tests/.cache/{name}");
    if path(&folder).join("io.safetensors").is_file() {
        return Some(folder);
    }
    eprintln!("skipped: {name} is not there; `python3 tests/real_models.py {name}` fetches it");
    None
}

#[test]
#[ignore = "needs a model of 86 MB that tests/real_models.py fetches"]
fn dinov2_small_sees_a_photograph_as_onnx_runtime_does() {
    let Some(folder) = fetched("dinov2-small") else { return };
    let network = networks::open(path(&folder), &Device::auto().unwrap()).unwrap();
    let inputs = NamedTensors::open(path(&folder).join("io.safetensors")).unwrap();
    let out = network.run(&inputs).unwrap();
    let found = out.get("last_hidden_state").unwrap();
    let Values::F32(values) = &found.values else { panic!("features are floats") };
    let expected = Golden::open(&format!("{folder}/io.safetensors")).get("last_hidden_state");
    assert_close("last_hidden_state", &Array::from_f32(&found.shape, values), &expected, 1e-3);
}
