//! `selftok inspect`, help and usage.

use crate::support::{json, mini, run, succeed};

#[test]
fn the_summary_says_what_the_model_is_and_can() {
    let ran = succeed(["inspect".as_ref(), mini().as_os_str()]);
    for part in [
        "64 of 4096 codes",
        "768 bits",
        "64 x 64 pixels",
        "10,016,912 parameters",
        "encode: yes, render: yes, diffuse: yes",
    ] {
        assert!(ran.stdout.contains(part), "{part}: {ran:?}");
    }
    let value = json(["inspect", "--json"]);
    assert_eq!(value["summary"]["num_tokens"], 64, "the default model is the small one");
    let alone =
        json(["inspect".as_ref(), "--json".as_ref(), mini().join("renderer.safetensors").as_os_str()]);
    assert_eq!(
        (&alone["summary"]["can_render"], &alone["summary"]["can_encode"]),
        (&true.into(), &false.into())
    );
}

#[test]
fn weights_graph_plan_and_memory_are_shown() {
    let ran = succeed(["inspect".as_ref(), "--weights".as_ref(), mini().as_os_str()]);
    assert!(ran.stdout.contains("encoder.quantizer._codebook.embed") && ran.stdout.contains("[1, 4096, 16]"));
    let vae = succeed(["inspect".as_ref(), "--weights".as_ref(), mini().join("vae").as_os_str()]);
    assert!(vae.stdout.contains("decoder.conv_out.weight"), "{vae:?}");
    let graph = succeed(["inspect", "--graph"]);
    assert!(graph.stdout.contains("graph encode") && graph.stdout.contains("codebook"), "{}", graph.stdout);
    let plan = succeed(["inspect", "--plan"]);
    assert!(plan.stdout.contains("plan diffusion for cpu") && plan.stdout.contains("entry sample"));
    let memory = succeed(["inspect", "--memory"]);
    assert!(memory.stdout.contains("lower bound") && memory.stdout.contains("last kernel"));
}

#[test]
fn the_peak_is_within_five_percent_of_the_lower_bound() {
    let value = json(["inspect", "--memory", "--json"]);
    for network in value["memory"].as_array().unwrap() {
        let (peak, bound) =
            (network["peak_bytes"].as_f64().unwrap(), network["lower_bound"].as_f64().unwrap());
        assert!(
            bound > 0.0 && peak >= bound && peak <= 1.05 * bound,
            "{}: {peak} {bound}",
            network["network"]
        );
        for entry in network["entries"].as_array().unwrap() {
            for buffer in entry["buffers"].as_array().unwrap() {
                let end = buffer["offset"].as_u64().unwrap() + buffer["bytes"].as_u64().unwrap();
                assert!(buffer["region"] != "scratch" || end <= entry["scratch_bytes"].as_u64().unwrap());
            }
        }
    }
}

#[test]
fn help_has_examples_and_the_exit_codes() {
    let ran = succeed(["--help"]);
    assert!(ran.stdout.contains("Exit codes: 0 done, 1 failed") && ran.stdout.contains("recon"), "{ran:?}");
    for command in ["encode", "decode", "recon", "inspect"] {
        let ran = succeed([command, "--help"]);
        assert!(ran.stdout.contains(&format!("\n  selftok {command} ")), "{ran:?}");
    }
}

#[test]
fn wrong_usage_has_its_own_code() {
    for args in [
        &["nonsense"][..],
        &[],
        &["encode", "a.png"],
        &["decode", "t.npy", "-o", "x", "--mode", "magic"],
        &["encode", "--threads", "0", "a.png", "--json"],
    ] {
        let ran = run(args);
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert_eq!(ran.stdout, "");
    }
}
