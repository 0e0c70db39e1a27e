//! The host programs of the four kernels with one mistake after the other in their calls of the driver: each must be found, or be
//! explained in `mutations/host.md` as changing nothing.
//!
//! `cargo test -p selftok-kernels-cuda --test host_mutations -- --ignored` makes every mistake and writes tables to
//! `target/tmp/mutations`; a part is made with the other tests.

mod stand_in;

use std::path::Path;
use std::time::Duration;

use ptx_emulator::mutate::{Depth, Explained, ProgramCampaign, Table};

const FAMILIES: [&str; 4] = ["attention", "codebook", "gemm", "layer_norm"];

fn campaign(family: &str, every: usize, depth: Depth) -> ProgramCampaign {
    let program = [env!("CARGO_BIN_EXE_selftok-kernels-cuda"), "prove", family, "--size", "tiny"];
    ProgramCampaign {
        name: family.to_owned(),
        program: program.map(Into::into).to_vec(),
        library: stand_in::library(),
        seeds: vec![0, 1, 2],
        variables: vec![("PTX_EMULATOR_THREADS".into(), "1".into())],
        timeout: None,
        threads: 2,
        // One mistake can be made alone: `MUTATIONS_ONLY=gemm:order:3`.
        only: std::env::var("MUTATIONS_ONLY").unwrap_or_default(),
        every,
        depth,
        budget: Duration::MAX,
    }
}

/// Makes the mistakes and holds the survivors against what is written of them.
fn explained(every: usize, depth: Depth) -> Vec<(&'static str, Table)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("mutations/host.md");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let explained = Explained::parse(&text);
    let mut tables = Vec::new();
    for family in FAMILIES {
        let table = campaign(family, every, depth).run().unwrap_or_else(|e| panic!("{e}"));
        let (missing, outdated) = (explained.missing(&table), explained.outdated(&table));
        assert!(
            missing.is_empty(),
            "survivors that {} does not explain:\n{}",
            path.display(),
            missing.join("\n")
        );
        assert!(
            outdated.is_empty(),
            "found after all, though {} explains them: {outdated:?}",
            path.display()
        );
        for detector in ["crash", "hang", "not run", "not reached"] {
            let bad: Vec<_> = table.outcomes.iter().filter(|o| o.detector == detector).collect();
            assert!(bad.is_empty(), "{detector}: {bad:#?}");
        }
        tables.push((family, table));
    }
    tables
}

#[test]
fn a_sample_of_mistakes_is_found_or_explained() {
    for (family, table) in explained(12, Depth::First) {
        assert!(table.outcomes.len() >= 8, "{family}: {} mistakes were made", table.outcomes.len());
    }
}

#[test]
#[ignore = "runs the four programs some hundred times: a minute"]
fn every_mistake_is_found_or_explained() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mutations");
    std::fs::create_dir_all(&folder).unwrap();
    let mut all = Table::default();
    for (family, table) in explained(1, Depth::All) {
        println!("{family}\n{}", table.to_text());
        all.extend(table);
    }
    let text = format!("{}\n{}\n{}", all.to_text(), all.all_to_text(), all.alone_to_text());
    println!("all\n{text}");
    std::fs::write(folder.join("host.json"), all.to_json()).unwrap();
    std::fs::write(folder.join("host.md"), text).unwrap();
}
