#![allow(missing_docs)]
use selftok_graph::*;
use selftok_workspace::backend::{self, Backend, Engine, Reference};
#[test]
fn dbg() {
    let seed: u64 = std::env::var("SEED").unwrap().parse().unwrap();
    let off = std::env::var("OFF").unwrap_or_default();
    let selftok_workspace::random::Case { mut graph, inputs, table } = selftok_workspace::random::case(seed);
    for (i, n) in graph.nodes.iter().enumerate() {
        println!(
            "{i} {:?} {:?} -> {:?} {} {}",
            n.op.name(),
            n.inputs.iter().map(|v| v.0).collect::<Vec<_>>(),
            n.outputs.iter().map(|v| v.0).collect::<Vec<_>>(),
            n.outputs.first().map(|&v| graph.shape(v).to_string()).unwrap_or_default(),
            n.stage
        );
    }
    println!("{:?} {table:?}", graph.outputs);
    if std::env::var("ALL").is_ok() {
        let ids: Vec<(String, ValueId)> = graph
            .values
            .iter()
            .enumerate()
            .filter(|(_, v)| {
                v.stage > Stage::Bind
                    && v.dtype == DType::F32
                    && !matches!(graph.nodes[v.node].op, Op::Input | Op::State)
            })
            .map(|(i, _)| (format!("v{i:03}"), ValueId(i as u32)))
            .collect();
        graph.outputs = ids;
    }
    let shapes: std::collections::HashMap<String, Vec<usize>> =
        graph.weights().map(|(_, v)| (v.name.clone(), v.shape.sizes())).collect();
    let w = |name: &str| {
        let s = shapes.get(name)?;
        Some(selftok_workspace::random::weight(name, s.iter().product(), s[1..].iter().product()))
    };
    let name = graph.name.clone();
    let p = Program::from(graph);
    println!("{}", compile(&p, &Target { off: vec![off.clone()], ..Target::generic() }).unwrap());
    let want = Reference.open(&p, &w).run(&name, &inputs, &table);
    let got = Engine::without(&[&off]).open(&p, &w).run(&name, &inputs, &table);
    for k in want.keys() {
        let worst = got[k]
            .data
            .iter()
            .zip(&want[k].data)
            .map(|(a, b)| if b.is_nan() { 0.0 } else { (a - b).abs() })
            .fold(0.0, f64::max);
        println!("RESULT {k}: {worst:e}");
    }
}
