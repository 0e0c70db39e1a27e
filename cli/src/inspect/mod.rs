//! `selftok inspect`: what a model is, and what it compiles to. Nothing is computed and no weight is read.

mod graph;
mod memory;
mod summary;
mod weights;

use crate::args::{Common, Inspect};
use crate::failure::Usage;
use crate::{job, output};
use anyhow::Result;
use selftok::Selftok;
use serde_json::{Map, Value, json};

/// Runs the command.
///
/// Errors: the model cannot be opened or compiled.
pub fn run(common: &Common, args: Inspect) -> Result<()> {
    let mut common = Common {
        model: common.model.clone(),
        config: common.config.clone(),
        vae: common.vae.clone(),
        ..*common
    };
    if let Some(path) = &args.path {
        if !common.model.is_empty() {
            return Err(
                Usage("the model is named twice: as MODEL and by --model; name it once".into()).into()
            );
        }
        common.model.push(path.clone());
    }
    if args.weights && !args.graph && !args.plan && !args.memory {
        let listing = weights::Listing::of(&common)?;
        return if common.json {
            output::print_json(&json!({ "weights": listing.json() }))
        } else {
            output::print(&listing.to_string())
        };
    }
    let selftok = open(&common)?;
    let mut text = String::new();
    let mut json = Map::new();
    let all = args.weights || args.graph || args.plan || args.memory;
    if !all {
        let summary = summary::Summary::of(&selftok)?;
        text += &summary.to_string();
        json.insert("summary".into(), summary.json());
    }
    if args.weights {
        let listing = weights::Listing::of(&common)?;
        text += &listing.to_string();
        json.insert("weights".into(), listing.json());
    }
    if args.graph {
        let programs = selftok.programs()?;
        let graphs: Vec<String> = programs.iter().flat_map(|p| &p.entries).map(graph::text).collect();
        text += &graphs.join("\n");
        json.insert("graphs".into(), graphs.into());
    }
    if args.plan || args.memory {
        let plans = selftok.plans()?;
        if args.plan {
            let plans: Vec<String> = plans.iter().map(ToString::to_string).collect();
            text += &plans.join("\n");
            json.insert("plans".into(), plans.into());
        }
        if args.memory {
            text += &memory::text(&plans);
            json.insert("memory".into(), memory::json(&plans));
        }
    }
    if common.json { output::print_json(&Value::Object(json)) } else { output::print(&text) }
}

fn open(common: &Common) -> Result<Selftok> {
    Ok(job::options(common)?.device(job::device(common)?).batch(common.batch.into()).open()?)
}
