//! ViT, DINOv2 and CLIP against the reference library's golden values: on the judge, on every engine, and as black
//! boxes. `make_goldens.py` makes the cases whose names have a second part (`dinov2.swiglu`).

use selftok::networks::{self, NamedTensors, Values};
use selftok::{CpuOptions, Device};
use selftok_graph::models::{clip, dinov2, vit};
use selftok_graph::{Graph, Program};
use selftok_workspace::backend::{all, inputs, slots};
use selftok_workspace::{Array, Golden, assert_close, path};

const TOLERANCE: f64 = 1e-4;

struct Case {
    name: &'static str,
    folder: String,
    weights: Golden,
    io: Golden,
}

impl Case {
    fn open(name: &'static str) -> Case {
        let folder = format!("tests/golden/models/{name}");
        let weights = Golden::open(&format!("{folder}/model.safetensors"));
        let io = Golden::open(&format!("{folder}/io.safetensors"));
        Case { name, folder, weights, io }
    }

    fn config<T: for<'de> serde::Deserialize<'de>>(&self) -> T {
        let text = std::fs::read_to_string(path(&self.folder).join("config.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    fn has(&self, weight: &str) -> bool {
        self.weights.find(weight).is_some()
    }

    /// Every result of the graph, on every backend; `expected` must be among them.
    fn judge(&self, graph: Graph, given: selftok_workspace::Named, batch: usize, expected: &[&str]) {
        let program = Program::from(graph);
        for backend in all() {
            let mut session = backend.open(&program, &|name| self.weights.weight(name));
            let out = session.run(&program.name, &given, &[slots([("batch", batch)])]);
            for name in expected {
                let what = format!("{} on {}: {name}", self.name, backend.name());
                assert_close(&what, &out[*name], &self.io.get(name), TOLERANCE);
            }
        }
    }

    /// The same through the library's black box.
    fn black_box(&self, input: &str, expected: &[&str]) {
        let device = Device::cpu(CpuOptions { threads: 2, ..CpuOptions::default() }).unwrap();
        let network = networks::open(path(&self.folder), &device).unwrap();
        let file = NamedTensors::open(path(&self.folder).join("io.safetensors")).unwrap();
        let given = file.get(input).unwrap();
        let given = NamedTensors::new().with(input, &given.shape, given.values.clone()).unwrap();
        // Twice: what is bound once serves again.
        for _ in 0..2 {
            let out = network.run(&given).unwrap();
            for name in expected {
                let tensor = out.get(name).unwrap_or_else(|| panic!("{}: no {name}", self.name));
                let Values::F32(values) = &tensor.values else { panic!("{name} is of floats") };
                let found = Array::from_f32(&tensor.shape, values);
                assert_close(&format!("{}: {name}", self.name), &found, &self.io.get(name), TOLERANCE);
            }
        }
    }

    /// Pictures, their number and size.
    fn pictures(&self) -> (selftok_workspace::Named, usize, [usize; 2]) {
        let pixels = self.io.get("pixel_values");
        let (batch, image) = (pixels.shape[0], [pixels.shape[2], pixels.shape[3]]);
        (inputs([("pixel_values", pixels)]), batch, image)
    }
}

fn vit_case(name: &'static str) {
    let case = Case::open(name);
    let heads = vit::Heads { pooler: case.has("pooler.dense.weight"), labels: None };
    let (given, batch, image) = case.pictures();
    let expected: &[&str] =
        if heads.pooler { &["last_hidden_state", "pooler_output"] } else { &["last_hidden_state"] };
    case.judge(vit::graph(&case.config(), heads, batch, image).unwrap(), given, batch, expected);
    case.black_box("pixel_values", expected);
}

fn dinov2_case(name: &'static str) {
    let case = Case::open(name);
    let (given, batch, image) = case.pictures();
    let expected = ["last_hidden_state", "pooler_output"];
    case.judge(dinov2::graph(&case.config(), None, batch, image).unwrap(), given, batch, &expected);
    case.black_box("pixel_values", &expected);
}

fn clip_vision_case(name: &'static str, expected: &[&str]) {
    let case = Case::open(name);
    let (given, batch, image) = case.pictures();
    let projection = case.has("visual_projection.weight");
    case.judge(clip::vision(&case.config(), projection, batch, image).unwrap(), given, batch, expected);
    case.black_box("pixel_values", expected);
}

fn clip_text_case(name: &'static str, expected: &[&str]) {
    let case = Case::open(name);
    let config: clip::TextConfig = case.config();
    let ids = case.io.get("input_ids");
    let (batch, length) = (ids.shape[0], ids.shape[1]);
    let end = (0..batch).map(|b| {
        let ids: Vec<i64> = ids.row(b).iter().map(|&id| id as i64).collect();
        (b * length + config.end(&ids)) as f32
    });
    let end = Array::from_f32(&[batch], &end.collect::<Vec<_>>());
    let projection = case.has("text_projection.weight");
    let graph = clip::text(&config, projection, batch, length, false).unwrap();
    case.judge(graph, inputs([("input_ids", ids), ("end", end)]), batch, expected);
    case.black_box("input_ids", expected);
}

#[test]
fn vit_agrees_with_the_reference_library() {
    vit_case("vit");
}

#[test]
fn dinov2_agrees_with_the_reference_library() {
    dinov2_case("dinov2");
}

#[test]
fn clip_agrees_with_the_reference_library() {
    clip_vision_case("clip_vision", &["last_hidden_state", "image_embeds"]);
    clip_text_case("clip_text", &["last_hidden_state", "text_embeds"]);
}

#[test]
fn every_option_agrees_with_the_reference_library() {
    vit_case("vit.bare");
    dinov2_case("dinov2.swiglu");
    clip_vision_case("clip_vision.bare", &["last_hidden_state", "pooler_output"]);
}

#[test]
fn positions_are_interpolated_as_the_reference_library_does() {
    vit_case("vit.larger");
    dinov2_case("dinov2.larger");
    dinov2_case("dinov2.smaller");
    clip_vision_case("clip_vision.larger", &["last_hidden_state", "image_embeds"]);
}

#[test]
fn a_text_ends_where_the_reference_library_has_it() {
    clip_text_case("clip_text.first_eos", &["last_hidden_state", "text_embeds"]);
    clip_text_case("clip_text.highest", &["last_hidden_state", "pooler_output"]);
}

#[test]
fn a_part_filled_batch_gives_what_a_full_one_does() {
    let case = Case::open("dinov2");
    let (given, batch, image) = case.pictures();
    let program = Program::from(dinov2::graph(&case.config(), None, batch + 1, image).unwrap());
    let mut pixels = given["pixel_values"].clone();
    pixels.shape[0] += 1;
    pixels.data.resize(pixels.shape.iter().product(), f64::NAN);
    for backend in all() {
        let mut session = backend.open(&program, &|name| case.weights.weight(name));
        let out =
            session.run("dinov2", &inputs([("pixel_values", pixels.clone())]), &[slots([("batch", batch)])]);
        let found = selftok_kernels_cpu::reference::slice(&out["last_hidden_state"], 0, 0, batch);
        assert_close("last_hidden_state", &found, &case.io.get("last_hidden_state"), TOLERANCE);
    }
}
