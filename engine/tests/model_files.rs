//! Selftok models: what is recognised, and which sentence meets a wrong pairing.

#[path = "../../loader/tests/common/mod.rs"]
mod common;

use std::collections::{BTreeMap, HashMap};
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};

use common::*;
use selftok::model::{Description, Role, SearchPath, SelftokFiles, Sources, Vae, read_config};
use selftok_graph::models::autoencoder;
use selftok_loader::{Generated, TensorSource, Weights, write_safetensors_atomic};

type Keys = BTreeMap<String, Vec<usize>>;

/// Names and shapes of a released file, dumped from the original.
fn released_keys(file: &str) -> Keys {
    let text = std::fs::read_to_string(golden(file)).unwrap();
    let keys: HashMap<String, (Vec<usize>, String)> = serde_json::from_str(&text).unwrap();
    keys.into_iter().map(|(name, (shape, _))| (name, shape)).collect()
}

fn describe(keys: Keys) -> selftok_loader::Result<Description> {
    Description::of(
        &Generated::new(keys, |_, _, _| unreachable!("only shapes are read")),
        Path::new("ckpt.pth"),
    )
}

fn open(model: &Path) -> selftok_loader::Result<SelftokFiles> {
    SelftokFiles::open(&Sources { model: model.into(), ..Sources::default() })
}

fn mini() -> PathBuf {
    repository("models/mini")
}

/// A folder with links to files of the small model, to take parts away from and to put others in.
fn folder(parts: &[(&str, PathBuf)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, path) in parts {
        let to = dir.path().join(name);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(path, to).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
    dir
}

#[test]
fn the_released_files_are_recognised_by_their_keys_and_shapes() {
    for (file, role, canvas) in
        [("full_tok_keys.json", Role::Tokenizer, None), ("full_ren_keys.json", Role::Renderer, Some(256))]
    {
        let keys = released_keys(file);
        assert_eq!(keys.len(), 998);
        let d = describe(keys.clone()).unwrap();
        assert_eq!((d.role, d.num_tokens, d.codebook_size, d.code_dim), (role, 512, 32768, 16));
        assert_eq!((d.patch, d.patch_values, d.canvas), (Some((16, 2)), 64, canvas));
        let config = d.released_config().unwrap();
        config.validate().unwrap();
        assert_eq!(d.contradictions(&config), Vec::<String>::new());
        assert_eq!((config.image_size, config.grid(), config.downscale()), (256, 16, 8));
        assert_eq!(config.tokens_per_stage.as_deref(), Some(&[192, 184, 72, 48, 16][..]));
        assert_eq!(
            (config.encoder.num_heads, config.encoder.query_heads, config.decoder.num_heads),
            (4, 8, 24)
        );

        // The 1024-token file differs in three shapes; its stages were never published.
        let mut keys = keys;
        keys.insert("encoder.query_tokens".into(), vec![1, 1024, 512]);
        keys.insert("model.context_pos_embed".into(), vec![1, 1024, 1536]);
        let config = describe(keys).unwrap().released_config().unwrap();
        assert_eq!((config.num_tokens, config.tokens_per_stage), (1024, None));
    }
}

#[test]
fn a_file_that_contradicts_itself_or_is_something_else_says_so() {
    let with = |change: &dyn Fn(&mut Keys)| {
        let mut keys = released_keys("full_tok_keys.json");
        change(&mut keys);
        message(describe(keys))
    };
    let set = |name: &'static str, shape: &'static [usize]| {
        with(&move |k| drop(k.insert(name.into(), shape.into())))
    };
    let without = |name: &'static str| with(&move |k| drop(k.remove(name)));

    says(&set("encoder.query_tokens", &[1, 1024, 512]), &["ckpt.pth", "encoder.query_tokens", "1024", "512"]);
    says(&set("encoder.query_tokens", &[512, 512]), &["[512, 512]", "3 dimensions"]);
    says(&set("encoder.pos_embed", &[1, 4095, 64]), &["4095 positions", "square"]);
    says(
        &set("model.x_embedder.proj.weight", &[1536, 4, 2, 2]),
        &["model.x_embedder", "64 values of a patch"],
    );
    says(
        &set("model.context_embedder.weight", &[1536, 32]),
        &["model.context_embedder.weight", "[1536, 16]"],
    );
    says(&set("model.mask_token", &[1, 1, 1536]), &["both model.mask_token"]);
    says(&without("encoder.quantizer._codebook.embed"), &["no codebook", "FSQ"]);
    says(
        &without("model.joint_blocks.7.x_block.attn.qkv.weight"),
        &["no tensor `model.joint_blocks.7.x_block"],
    );
    says(&without("model.x_embedder.proj.weight"), &["not a Selftok checkpoint", "encoder alone"]);
    says(&message(describe(released_keys("full_vae_keys.json"))), &["autoencoder", "as the VAE"]);
    let sd3 = Weights::open(repository("tests/golden/models/sd3/model.safetensors")).unwrap();
    says(&message(Description::of(&sd3, Path::new("sd3"))), &["SD3 transformer"]);
}

#[test]
fn a_released_checkpoint_of_nine_gigabytes_opens_without_being_read() {
    // Sparse: the header is real, the data are a hole in the file.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer_512_ckpt.safetensors");
    let mut at = 0u64;
    let mut header = serde_json::Map::new();
    for (name, shape) in released_keys("full_tok_keys.json") {
        let end = at + shape.iter().product::<usize>() as u64 * 4;
        header.insert(name, serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [at, end]}));
        at = end;
    }
    let mut file = std::fs::File::create(&path).unwrap();
    file.write_all(&safetensors(&serde_json::Value::Object(header).to_string(), &[])).unwrap();
    let total = file.stream_position().unwrap() + at;
    file.set_len(total).unwrap();
    assert!(total > 8_900_000_000);

    let start = std::time::Instant::now();
    let model = open(&path).unwrap();
    assert!(start.elapsed().as_secs_f64() < 2.0, "opening took {:?}", start.elapsed());
    assert_eq!(model.config().num_tokens, 512);
    let mut row = [1.0; 1536];
    let encoder = model.encoder().unwrap();
    encoder.weights.read_rows("model.joint_blocks.23.x_block.mlp.fc1.weight", 6143..6144, &mut row).unwrap();
    assert_eq!(row, [0.0; 1536]);
    says(&message(model.renderer()), &["needs a renderer checkpoint", "renderer_512_ckpt.pth"]);
    says(&message(model.vae()), &["autoencoder", "stable-diffusion-3-medium-diffusers", "--vae DIR"]);
    // The small model's autoencoder has latents of 8 channels.
    let wrong = Sources { model: path, vae: Some(mini().join("vae")), ..Sources::default() };
    says(&message(SelftokFiles::open(&wrong)), &["8 channels", "needs 16", "stable-diffusion-3"]);
}

#[test]
fn the_small_model_opens_and_is_described_rightly() {
    let model = open(&mini()).unwrap();
    let config = model.config();
    assert_eq!((config.image_size, config.num_tokens, config.grid(), config.downscale()), (64, 64, 8, 4));
    assert_eq!(model.tokens_per_stage().unwrap(), [24, 20, 10, 6, 4]);
    let encoder = model.encoder().unwrap();
    assert_eq!(encoder.description.role, Role::Tokenizer);
    assert_eq!(encoder.description.patch, Some((8, 2)));
    assert_eq!(encoder.description.released_config(), None, "the heads of the small model are in no shape");
    assert!(std::ptr::eq(encoder, model.diffusion().unwrap()));
    let renderer = model.renderer().unwrap();
    assert_eq!((renderer.description.canvas, &renderer.description.encoder), (Some(64), &None));
    let vae = model.vae().unwrap();
    assert_eq!(vae.config.block_out_channels, [32, 64, 64]);
    assert_eq!((vae.config.scaling_factor, vae.config.shift_factor), (1.1944, Some(-0.0599)));

    // One file of it finds its configuration and its autoencoder beside it.
    let alone = open(&mini().join("renderer.safetensors")).unwrap();
    assert_eq!(alone.config(), config);
    alone.renderer().unwrap();
    alone.vae().unwrap();
    says(&message(alone.encoder()), &["encoding needs an encoder", "tokenizer.safetensors"]);
    says(
        &message(alone.diffusion()),
        &["decoding by diffusion needs a tokenizer", "one-step renderer (model.mask_token)"],
    );
}

#[test]
fn every_contradiction_with_the_configuration_is_named_with_both_numbers() {
    let text = std::fs::read_to_string(mini().join("config.json")).unwrap();
    let good: serde_json::Value = serde_json::from_str(&text).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("other.json");
    let with = |changes: &[(&str, serde_json::Value)]| {
        let mut config = good.clone();
        for (pointer, value) in changes {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            config.pointer_mut(parent).unwrap()[key] = value.clone();
        }
        std::fs::write(&path, config.to_string()).unwrap();
        message(SelftokFiles::open(&Sources {
            model: mini(),
            config: Some(path.clone()),
            ..Sources::default()
        }))
    };
    let text = with(&[
        ("/num_tokens", 32.into()),
        ("/tokens_per_stage", serde_json::json!([12, 10, 5, 3, 2])),
        ("/codebook_size", 512.into()),
        ("/encoder/depth", 16.into()),
        ("/decoder/hidden_size", 96.into()),
    ]);
    says(&text, &["other.json", "tokenizer.safetensors"]);
    for pair in [
        "num_tokens: the configuration says 32, the tensors say 64",
        "512",
        "4096",
        "encoder.depth",
        "16",
        "96",
        "192",
    ] {
        says(&text, &[pair]);
    }
    says(
        &with(&[("/image_size", 32.into()), ("/latent_size", 8.into())]),
        &["patches of a picture", "16", "64"],
    );
    says(&with(&[("/image_size", 128.into())]), &["divides a picture by 4", "needs 8"]);
    says(&with(&[("/image_size", 65.into())]), &["image_size = 65: a multiple of latent_size 16"]);
    says(&with(&[("/encoder/num_heads", 0.into())]), &["encoder.num_heads = 0"]);
    says(&with(&[("/decoder/num_heads", 5.into())]), &["decoder.hidden_size = 192", "its 5 heads"]);
    says(&with(&[("/tokens_per_stage", serde_json::json!([64]))]), &["5 numbers", "64"]);
    says(
        &with(&[("/tokens_per_stage", serde_json::json!([24, 20, 10, 6, 5]))]),
        &["add up to num_tokens 64"],
    );
    says(&with(&[("/model_type", "llama".into())]), &["model_type = llama", "\"selftok\""]);
    says(&with(&[("/num_token", 1.into())]), &["unknown field `num_token`"]);
    says(&with(&[("/encoder/pos_grid", 4.into())]), &["encoder.pos_grid = 4", "8 patches"]);

    let mut unknown_stages = good.clone();
    unknown_stages.as_object_mut().unwrap().remove("tokens_per_stage");
    std::fs::write(&path, unknown_stages.to_string()).unwrap();
    let model =
        SelftokFiles::open(&Sources { model: mini(), config: Some(path.clone()), ..Sources::default() })
            .unwrap();
    says(&message(model.tokens_per_stage()), &["tokens_per_stage", "64 tokens", "--config"]);
    assert_eq!(read_config(&path).unwrap(), *model.config());
}

#[test]
fn files_that_do_not_belong_together_are_refused() {
    let config = || ("config.json", mini().join("config.json"));
    let tiny = |name| golden(&format!("tiny_{name}.weights.safetensors"));

    let dir = folder(&[config(), ("renderer.safetensors", mini().join("tokenizer.safetensors"))]);
    says(
        &message(open(dir.path())),
        &["by its name a renderer", "tokenizer (encoder and diffusion decoder)"],
    );
    let dir = folder(&[
        config(),
        ("tokenizer.safetensors", mini().join("tokenizer.safetensors")),
        ("renderer.safetensors", tiny("renderer")),
    ]);
    says(&message(open(dir.path())), &["has 64 tokens", "has 16", "of one model"]);
    let dir = folder(&[config()]);
    says(&message(open(dir.path())), &["not a Selftok folder", "tokenizer.safetensors"]);
    let dir = folder(&[("tokenizer.safetensors", tiny("tokenizer"))]);
    says(&message(open(dir.path())), &["config.json must say", "--config"]);
    let dir = folder(&[
        ("tokenizer_512_ckpt.safetensors", tiny("tokenizer")),
        ("tokenizer_1024_ckpt.safetensors", tiny("tokenizer")),
    ]);
    says(&message(open(dir.path())), &["2 files for the tokenizer", "tokenizer_1024_ckpt"]);
    says(&message(open(Path::new("/nowhere/at/all"))), &["/nowhere/at/all"]);

    // A released renderer holds the encoder too; here as .pth, by its released name.
    let dir = folder(&[("renderer_512_ckpt.pth", golden("tiny_renderer.pth"))]);
    let config = serde_json::json!({
        "model_type": "selftok", "image_size": 64, "latent_channels": 16, "latent_size": 8, "patch_size": 2, "num_tokens": 16,
        "codebook_size": 256, "code_dim": 16,
        "encoder": {"hidden_size": 16, "num_heads": 2, "depth": 2, "query_size": 32, "query_heads": 4, "pos_grid": 16},
        "decoder": {"hidden_size": 128, "num_heads": 2, "depth": 2, "pos_grid": 12}
    });
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let vae = Some(golden("tiny_vae"));
    let model = SelftokFiles::open(&Sources { model: dir.path().into(), vae, ..Sources::default() }).unwrap();
    assert_eq!(model.encoder().unwrap().description.role, Role::Renderer);
    assert_eq!(model.vae().unwrap().config.downsampling(), 8);
}

#[test]
fn an_autoencoder_of_another_kind_is_refused() {
    let vae = Vae::open(&golden("tiny_vae")).unwrap();
    assert_eq!(vae.weights.len(), released_keys("full_vae_keys.json").len());
    let text = std::fs::read_to_string(golden("tiny_vae/vae/config.json")).unwrap();
    let good: serde_json::Value = serde_json::from_str(&text).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let tensors: Vec<_> = vae.weights.iter().collect();
    write_safetensors_atomic(
        &dir.path().join("diffusion_pytorch_model.safetensors"),
        &tensors,
        &BTreeMap::new(),
    )
    .unwrap();
    let write = |key: &str, value: serde_json::Value| {
        let mut config = good.clone();
        config[key] = value;
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    };
    write("shift_factor", serde_json::Value::Null);
    assert_eq!(Vae::open(dir.path()).unwrap().config.shift_factor, None);
    for (key, value, parts) in [
        ("_class_name", "AutoencoderTiny".into(), ["AutoencoderTiny", "AutoencoderKL"]),
        ("act_fn", "gelu".into(), ["gelu", "silu"]),
        ("latent_channels", 4.into(), ["encoder.conv_out.weight", "[8, 32, 3, 3]"]),
        ("norm_num_groups", 3.into(), ["block_out_channels = 8", "norm_num_groups 3"]),
        ("block_out_channels", serde_json::json!([8, 16, 32]), ["down_block_types", "3 times"]),
        (
            "down_block_types",
            serde_json::json!(vec!["AttnDownEncoderBlock2D"; 4]),
            ["AttnDownEncoderBlock2D", "4 times"],
        ),
        ("latents_mean", serde_json::json!([0.5]), ["latents_mean", "none"]),
        ("scaling_factor", 0.into(), ["scaling_factor = 0", "other than 0"]),
    ] {
        write(key, value);
        says(&message(Vae::open(dir.path())), &["config.json", parts[0], parts[1]]);
    }
    // An old configuration lacks the newer fields and has the defaults of its class.
    let old = r#"{"_class_name": "AutoencoderKL", "block_out_channels": [64]}"#;
    std::fs::write(dir.path().join("config.json"), old).unwrap();
    let old = serde_json::from_slice::<autoencoder::Config>(
        &std::fs::read(dir.path().join("config.json")).unwrap(),
    )
    .unwrap();
    assert!(old.use_quant_conv && old.mid_block_add_attention && old.latent_channels == 4);
}

#[test]
fn a_model_is_found_in_the_first_usual_place_that_has_one() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let vars: HashMap<&str, PathBuf> =
        HashMap::from([("XDG_DATA_HOME", at("data")), ("HOME", at("home")), ("APPDATA", at("data"))]);
    let mut places = SearchPath::from_parts(|n| vars.get(n).map(|p| p.into()), Some(&at("usr/bin/selftok")));
    assert_eq!(places.variable, None);
    assert_eq!(places.share, Some(at("usr/share/selftok")));
    assert_eq!(places.source.as_ref().unwrap().canonicalize().unwrap(), mini().canonicalize().unwrap());
    assert_eq!(places.find().unwrap(), *places.source.as_ref().unwrap());

    let real = places.source.replace(at("checkout/models/mini"));
    let text = message(places.find());
    says(&text, &["$SELFTOK_MODEL", "usr/share/selftok", "checkout/models/mini", "--model"]);
    says(&text, &[&places.data.as_ref().unwrap().display().to_string()]);

    // An empty folder is passed over, one with a model is taken.
    std::fs::create_dir_all(at("usr/share/selftok")).unwrap();
    places.source = real.clone();
    assert_eq!(places.find().unwrap(), real.unwrap());
    std::fs::write(at("usr/share/selftok/tokenizer.safetensors"), b"x").unwrap();
    assert_eq!(places.find().unwrap(), at("usr/share/selftok"));

    places.variable = Some(at("wrong"));
    says(&message(places.find()), &["$SELFTOK_MODEL names", "wrong", "does not exist"]);
    places.variable = Some(at("usr"));
    assert_eq!(places.find().unwrap(), at("usr"));
}
